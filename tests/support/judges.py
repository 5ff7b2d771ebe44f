"""DMTF's validators, run against a service: what they find wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """What a validator says of a service."""

    passed: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def judge_resources(url: str, user: str, password: str, schemas: Path) -> Verdict:
    """Redfish-Service-Validator: every resource that can be reached, against the schema files."""
    from redfish_service_validator import logger, metadata
    from redfish_service_validator.system_under_test import SystemUnderTest

    logger.logger = logging.getLogger("redfish_service_validator")
    logger.logger.propagate = False
    with contextlib.redirect_stdout(io.StringIO()):
        metadata.parse_schema_files(str(schemas))
        service = SystemUnderTest(url, user, password, 30, "session", None, None, None, [], False)
        service.validate(None, "/redfish/v1/", "/redfish/v1/")
        service.logout()
    found: dict[str, list[str]] = {"FAIL": [], "WARN": []}
    for uri, resource in service._resources.items():
        if resource.get("StatusCode") != 200:
            found["FAIL"].append(f"{uri}: {resource.get('StatusCode')} {resource.get('Exception')}")
        for name, result in resource["Results"].items():
            if result["Result"] in found:
                found[result["Result"]].append(f"{uri} {name}: {result['Message']}")
    return Verdict(service.pass_count, tuple(found["FAIL"]), tuple(found["WARN"]))


def judge_protocol(url: str, user: str, password: str, ca: str, folder: Path) -> Verdict:
    """Redfish-Protocol-Validator: requests of all kinds, right and wrong, and the answers to them."""
    command = [str(Path(sys.executable).with_name("rf_protocol_validator")), "--rhost", url, "--user", user]
    command += [
        "--password",
        password,
        "--ca-bundle",
        ca,
        "--report-dir",
        str(folder),
        "--report-type",
        "tsv",
    ]
    # Variables of the environment would be preferred to --ca-bundle.
    own = {name: value for name, value in os.environ.items() if "CA_BUNDLE" not in name}
    done = subprocess.run(
        [*command, "--avoid-http-redirect"], env=own, capture_output=True, text=True, check=False, timeout=300
    )
    [report] = folder.glob("*.tsv")
    with report.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows, done.stderr

    def of(result: str) -> tuple[str, ...]:
        return tuple(
            f"{r['Assertion']} {r['Method']} {r['URI']}: {r['Message']}"
            for r in rows
            if r["Result"] == result
        )

    return Verdict(len(of("PASS")), of("FAIL"), of("WARN"))
