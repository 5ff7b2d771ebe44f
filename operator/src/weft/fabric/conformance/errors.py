"""Which error is raised for what: one class per reaction of Weft, and never another exception."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from weft.fabric.conformance.proxy import Proxy
from weft.fabric.conformance.rig import Rig, conformance, refusal, unused_port, whole
from weft.fabric.errors import (
    AuthFailed,
    Conflict,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Transient,
    Unsupported,
)

UNUSABLE = (
    "no-such",
    "",
    "..",
    "../../etc/passwd",
    "a/../b",
    "x" * 300,
    "new\nline",
    "%2e%2e%2f",
    "caf\u00e9 \u2603",
)


HTTP_ANSWERS: dict[int, tuple[type[FabricError], ...]] = {
    429: (RateLimited,),
    503: (RateLimited,),
    500: (Transient,),
    # A session may have ended: the next call can tell that from credentials that are refused.
    401: (AuthFailed, Transient),
}
_HEADERS = "Retry-After: 2\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n"


class Errors:
    """What the administrator, the placement and the next try depend on."""

    @conformance
    async def test_a_host_that_is_not_there_is_refused_by_every_call(self, rig: Rig) -> None:
        for host in UNUSABLE:
            with refusal(NotFound, InvalidRequest):
                await rig.driver.attached(host)
            for call in (rig.driver.attach, rig.driver.detach):
                with refusal(NotFound, InvalidRequest):
                    await call(rig.key(), host, frozenset({rig.devices[0]}))
        assert await rig.where(*rig.devices) == set()

    @conformance
    async def test_a_device_that_is_not_there_is_refused_with_all_that_were_to_come_with_it(
        self, rig: Rig
    ) -> None:
        for device in UNUSABLE:
            with refusal(NotFound, InvalidRequest, Conflict):
                await rig.driver.attach(rig.key(), rig.host, frozenset({device, rig.devices[0]}))
        assert await rig.where(*rig.devices) == set()

    @conformance
    async def test_a_device_out_of_the_hosts_reach_is_refused(self, rig: Rig) -> None:
        hosts = {host.id for host in rig.before.hosts if host.healthy and not host.closed}
        for device in rig.before.devices:
            beyond = hosts - (hosts if device.reachable_hosts is None else device.reachable_hosts)
            if not beyond or any(device.id == attached for attached, _ in rig.before.attachments):
                continue
            try:
                await rig.attach(device.id, host=min(beyond))
            except (InvalidRequest, Conflict, NotFound):
                assert await rig.where(device.id) == set()
                return
            # Placement does not ask for it; a manager that permits it is one that does not know better.
            await rig.detach(device.id, host=min(beyond))
            pytest.skip("this manager attaches a device beyond the reach that it reports")
        pytest.skip("every device of this manager reaches every host")

    @conformance
    async def test_an_operation_that_the_manager_does_not_know_is_not_found(self, rig: Rig) -> None:
        for id in ("", "no-such-operation", "/redfish/v1/TaskService/Tasks/no-such", "../../etc/passwd"):
            with refusal(NotFound, InvalidRequest, Unsupported, Transient):
                await rig.driver.operation(id)

    @conformance
    async def test_wrong_credentials_are_the_administrators_matter(self, rig: Rig) -> None:
        if not rig.bench.connection.username:
            pytest.skip("this manager is used without credentials")
        async with rig.bench.connected(password="wrong") as driver:
            with refusal(AuthFailed):
                await driver.inventory()
        async with rig.bench.connected(password="wrong") as driver:
            with refusal(AuthFailed):
                await driver.attach(rig.key(), rig.host, frozenset({rig.devices[0]}))
        assert await rig.where(*rig.devices) == set()

    @conformance
    async def test_a_manager_that_is_not_there_had_no_effect(self, rig: Rig) -> None:
        if rig.bench.address is None:
            pytest.skip("the endpoint is not plain HTTP: the suite cannot stand in its place")
        async with rig.bench.connected(endpoint=rig.bench.elsewhere(unused_port())) as driver:
            for call in (driver.inventory, lambda: driver.attached(rig.host)):
                with refusal(Transient):
                    await call()
            for change in (driver.attach, driver.detach):
                with refusal(Transient):
                    await change(rig.key(), rig.host, frozenset({rig.devices[0]}))

    @conformance
    async def test_a_manager_that_says_nothing_is_given_up_in_time(self, rig: Rig) -> None:
        if rig.bench.address is None:
            pytest.skip("the endpoint is not plain HTTP: the suite cannot come between")
        seconds, loop = 0.25, asyncio.get_running_loop()
        async with Proxy(rig.bench.address) as proxy:
            endpoint = rig.bench.elsewhere(proxy.port)
            async with rig.bench.connected(endpoint=endpoint) as usual:
                await whole(usual)
            async with rig.bench.connected(endpoint=endpoint, request_timeout_seconds=seconds) as driver:
                await whole(driver)
                proxy.hang()
                for call, errors in (
                    (driver.attached(rig.host), (Transient,)),
                    (driver.attach(rig.key(), rig.host, frozenset(rig.devices)), (Transient, OutcomeUnknown)),
                ):
                    began = loop.time()
                    with refusal(*errors):
                        await call
                    # The leader's lease is reckoned to outlast a call: a driver that takes longer breaks that.
                    assert loop.time() - began < seconds + 1.0, "it took longer than request_timeout_seconds"
                proxy.go_on()
                await driver.attached(rig.host)

    @conformance
    async def test_garbage_instead_of_an_answer_is_no_answer(self, rig: Rig) -> None:
        if rig.bench.address is None:
            pytest.skip("the endpoint is not plain HTTP: the suite cannot come between")
        for garbage in (
            b"\x00\xff garbage \r\n\r\n",
            b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a": [1,',
        ):
            async with (
                Proxy(rig.bench.address) as proxy,
                rig.bench.connected(endpoint=rig.bench.elsewhere(proxy.port)) as driver,
            ):
                await whole(driver)
                proxy.say(garbage)
                with refusal(Transient):
                    await driver.attached(rig.host)
                with refusal(Transient, OutcomeUnknown):
                    await driver.attach(rig.key(), rig.host, frozenset({rig.devices[0]}))
                proxy.go_on()
                await driver.attached(rig.host)

    @conformance
    async def test_http_answers_that_refuse_are_told_apart(self, rig: Rig) -> None:
        if rig.bench.address is None:
            pytest.skip("the endpoint is not plain HTTP: the suite cannot come between")
        for status, errors in HTTP_ANSWERS.items():
            async with (
                Proxy(rig.bench.address) as proxy,
                rig.bench.connected(endpoint=rig.bench.elsewhere(proxy.port)) as driver,
            ):
                await whole(driver)
                proxy.say(f"HTTP/1.1 {status} X\r\n{_HEADERS}\r\n{{}}".encode())
                with refusal(*errors):
                    await driver.attached(rig.host)
                with refusal(*errors, OutcomeUnknown):
                    await driver.attach(rig.key(), rig.host, frozenset({rig.devices[0]}))
                if errors == (RateLimited,):
                    with pytest.raises(RateLimited) as caught:
                        await driver.attached(rig.host)
                    assert caught.value.retry_after_seconds == 2, "it asked for a pause of two seconds"
        assert await rig.where(*rig.devices) == set()

    @conformance
    async def test_a_certificate_that_is_not_trusted_is_the_administrators_matter(self, rig: Rig) -> None:
        if not rig.bench.connection.ca_pem:
            pytest.skip("the connection names no certificates to trust")
        driver = rig.bench.driver(replace(rig.bench.connection, ca_pem=""))
        try:
            with refusal(AuthFailed):
                await driver.inventory()
        finally:
            await driver.close()
