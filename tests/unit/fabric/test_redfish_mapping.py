from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.fabric.driver import OperationPhase
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    CapacityExhausted,
    Conflict,
    DeviceFault,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Transient,
    Unsupported,
)
from weft.fabric.redfish.mapping import Precondition, Reply, error_of, operation_of_task, retry_after_seconds
from weft.fabric.redfish.tasks import carries

BLOCK = "/redfish/v1/CompositionService/ResourceBlocks/gpu-3"
NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def extended(message: str, *args: str, severity: str = "Critical") -> dict[str, Any]:
    info = {
        "MessageId": f"Base.1.8.{message}",
        "Message": message,
        "MessageArgs": list(args),
        "Severity": severity,
    }
    return {"error": {"code": "Base.1.8.GeneralError", "message": "-", "@Message.ExtendedInfo": [info]}}


def error(
    status: int, body: dict[str, Any] | None = None, *, write: bool = True, pause: float | None = None
) -> Any:
    return error_of(Reply("/redfish/v1/X", status, body or {}, retry_after_seconds=pause), write=write)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {}, AuthFailed),
        (403, {}, AuthFailed),
        (404, {}, NotFound),
        (410, {}, NotFound),
        (405, {}, Unsupported),
        (501, {}, Unsupported),
        (409, {}, Conflict),
        (412, {}, Precondition),
        (428, {}, Precondition),
        (406, {}, Unsupported),
        (403, extended("ActionNotSupported", "PATCH"), Unsupported),
        (403, extended("InsufficientPrivilege"), AuthFailed),
        (409, extended("ResourceInUse"), Conflict),
        (409, extended("ResourceExhaustion", "slots"), CapacityExhausted),
        (423, {}, Busy),
        (507, {}, CapacityExhausted),
        (400, {}, InvalidRequest),
        (422, {}, InvalidRequest),
        (413, {}, InvalidRequest),
        (400, extended("PropertyUnknown", "X"), InvalidRequest),
        (400, extended("ResourceInUse"), Conflict),
        (400, extended("ResourceBlockInUse", BLOCK), Conflict),
        (400, extended("CreateLimitReachedForResource"), CapacityExhausted),
        (400, extended("PropertyNotWritable", "ResourceBlocks"), Unsupported),
        (400, extended("UndeterminedFault", BLOCK), DeviceFault),
        (400, extended("UndeterminedFault", "the service"), InvalidRequest),
        (302, {}, InvalidRequest),
        (307, {}, InvalidRequest),
    ],
)
@pytest.mark.parametrize("write", [True, False])
def test_refusals_mean_the_same_for_reads_and_writes(
    status: int, body: dict[str, Any], kind: type[FabricError], write: bool
) -> None:
    assert type(error(status, body, write=write)) is kind


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 599, 700])
def test_a_failure_of_the_manager_leaves_the_outcome_of_a_write_open(status: int) -> None:
    assert type(error(status, write=True)) is OutcomeUnknown
    assert type(error(status, write=False)) is Transient


def test_a_500_that_claims_a_conflict_still_leaves_the_outcome_open() -> None:
    assert type(error(500, extended("ResourceInUse"))) is OutcomeUnknown


@pytest.mark.parametrize(
    ("status", "write", "kind"),
    # Who is too busy to answer a write may have made it all the same.
    [
        (429, True, RateLimited),
        (429, False, RateLimited),
        (503, False, RateLimited),
        (503, True, OutcomeUnknown),
    ],
)
def test_a_requested_pause_is_kept(status: int, write: bool, kind: type[FabricError]) -> None:
    limited = error(status, pause=7.0, write=write)
    assert type(limited) is kind
    assert limited.retry_after_seconds == 7.0


def test_a_fault_names_its_device() -> None:
    assert error(400, extended("ResourceErrorsDetected", BLOCK, "ECC")).device == "gpu-3"


def test_an_error_inside_a_200_is_believed_in_neither_direction() -> None:
    assert type(error(200, extended("ResourceInUse"), write=True)) is OutcomeUnknown
    assert type(error(200, extended("ResourceMissingAtURI"), write=False)) is NotFound
    assert type(error(200, {"error": "oops"}, write=False)) is Transient


def test_a_warning_on_a_changed_resource_leaves_the_outcome_open_but_not_on_a_read_one() -> None:
    body = {
        "@Message.ExtendedInfo": extended("PropertyNotUpdated", severity="Warning")["error"][
            "@Message.ExtendedInfo"
        ]
    }
    assert type(error(200, body, write=True)) is OutcomeUnknown
    assert error(200, body, write=False) is None


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_no_error(status: int) -> None:
    success = {"@Message.ExtendedInfo": extended("Success", severity="OK")["error"]["@Message.ExtendedInfo"]}
    assert error(status, success) is None


def test_text_of_a_manager_is_one_bounded_line() -> None:
    text = str(error(400, {"error": {"code": "x", "message": "a\r\nb\x1b[31m" + "c" * 5000}}))
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 500


@given(st.integers(100, 700), st.dictionaries(st.text(max_size=10), json_values), st.booleans())
def test_any_answer_maps_to_a_fabric_error_or_to_none(status: int, body: dict[str, Any], write: bool) -> None:
    found = error(status, body, write=write)
    assert found is None or isinstance(found, FabricError)
    assert (found is None) <= (200 <= status < 300)


@given(json_values)
def test_any_extended_info_maps_to_a_fabric_error(info: Any) -> None:
    assert isinstance(error(400, {"error": {"@Message.ExtendedInfo": [info], "code": info}}), FabricError)
    assert isinstance(error(400, {"error": {"@Message.ExtendedInfo": info}, "Messages": info}), FabricError)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("1e9", 600.0),
        ("Fri, 01 May 2026 12:00:30 GMT", 30.0),
        ("Fri, 01 May 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_gives_a_bounded_pause_or_none(header: str) -> None:
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or 0 <= seconds <= 600


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("New", OperationPhase.PENDING),
        ("Running", OperationPhase.RUNNING),
        ("Cancelling", OperationPhase.RUNNING),
        ("Completed", OperationPhase.SUCCEEDED),
        ("Exception", OperationPhase.FAILED),
        ("Cancelled", OperationPhase.CANCELLED),
        ("Killed", OperationPhase.CANCELLED),
        ("Daydreaming", OperationPhase.UNKNOWN),
        (None, OperationPhase.UNKNOWN),
    ],
)
def test_task_states_are_phases(state: str | None, phase: OperationPhase) -> None:
    assert operation_of_task({"TaskState": state}, "/t").phase is phase


def test_a_task_completed_with_critical_status_has_failed() -> None:
    assert (
        operation_of_task({"TaskState": "Completed", "TaskStatus": "Critical"}, "/t").phase
        is OperationPhase.FAILED
    )


def test_a_failed_task_names_the_devices_by_argument_or_by_place_in_the_request() -> None:
    body = (
        f'{{"Links": {{"ResourceBlocks": [{{"@odata.id": "{BLOCK[:-1]}1"}}, {{"@odata.id": "{BLOCK}"}}]}}}}'
    )
    by_place = {
        "MessageId": "B.1.0.ResourceInUse",
        "Severity": "Warning",
        "RelatedProperties": ["#/Links/ResourceBlocks/1"],
    }
    task = {
        "TaskState": "Exception",
        "Messages": [by_place | {"Message": "in use"}],
        "Payload": {"JsonBody": body},
    }
    assert operation_of_task(task, "/t").failed == {"gpu-3": "in use"}
    by_argument = {
        "MessageId": "B.1.0.X",
        "Severity": "Critical",
        "Message": "broken",
        "MessageArgs": [BLOCK],
    }
    assert operation_of_task({"TaskState": "Exception", "Messages": [by_argument]}, "/t").failed == {
        "gpu-3": "broken"
    }


@given(
    st.dictionaries(st.sampled_from(["TaskState", "Messages", "Payload", "Name", "TaskStatus"]), json_values)
)
def test_any_task_is_an_operation(task: dict[str, Any]) -> None:
    operation_of_task(task, "/t")
    assert carries(task, "no-such-key") is False


def test_a_task_is_found_by_the_whole_key_only() -> None:
    task = {"Payload": {"HttpHeaders": ["Weft-Operation: bind-10"]}}
    assert carries(task, "bind-10")
    assert not carries(task, "bind-1")
    assert carries({"Name": "attach bind-1"}, "bind-1")
