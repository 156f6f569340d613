"""wapiti over a running server, with the contract and an admin's key (`make scan`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymongo import MongoClient

from hive.permissions import Role
from server.resources import openapi_path
from tests.fuzz.arranging import PASSWORD, Arranging, Caller, prepare
from tests.servers import ROOT, ServerProcess

WAPITI = ROOT / ".venv-scan" / "bin" / "wapiti"
# `ssrf`, `log4shell` and the databases of products need hosts of the internet; the lists of names
# (`buster`, `backup`, `nikto`) ask for files, and here are none.
MODULES = (
    "cookieflags",
    "csp",
    "csrf",
    "http_headers",
    "methods",
    "htaccess",
    "crlf",
    "redirect",
    "xxe",
    "exec",
    "file",
    "sql",
    "ldap",
    "upload",
    "xss",
    "permanentxss",
)
SECONDS_PER_MODULE = 6
FEWEST_REQUESTS = 300
# What it finds and why that is as it should be: docs/security.md has the same answers.
ANSWERED = {
    "Clickjacking Protection": (
        "It looks for `X-Frame-Options`; `frame-ancestors 'none'` of the CSP says the same."
    ),
}
LIMITS = (
    "RATE_LIMIT_READ",
    "RATE_LIMIT_WRITE",
    "RATE_LIMIT_HEAVY",
    "RATE_LIMIT_TASK_SUBMIT",
    "RATE_LIMIT_AUTH",
    "RATE_LIMIT_AGENT",
    "RATE_LIMIT_ADDRESS",
)


def write_contract(caller: Caller, path: Path) -> None:
    """A contract whose paths name what exists: the scanner has nothing for their parameters."""
    document = yaml.safe_load(openapi_path().read_text("utf-8"))
    paths: dict[str, Any] = {}
    for template, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            named = caller.given.get(operation["operationId"], {}).get("path", {})
            concrete = template
            for name, value in named.items():
                concrete = concrete.replace(f"{{{name}}}", value)
            paths.setdefault(concrete, {})[method] = operation
    path.write_text(json.dumps({**document, "paths": paths}))


def scan(caller: Caller, folder: Path) -> dict[str, Any]:
    """The report of wapiti."""
    contract, report = folder / "contract.json", folder / "report.json"
    write_contract(caller, contract)
    command: list[str | Path] = [WAPITI, "--url", f"{caller.url}/", "--swagger", contract]
    command += ["--header", f"Authorization: Bearer {caller.credential}"]
    command += ["--module", ",".join(MODULES), "--max-attack-time", str(SECONDS_PER_MODULE)]
    command += ["--format", "json", "--output", report, "--no-bugreport", "--flush-session"]
    command += ["--store-session", folder, "--store-config", folder, "--tasks", "8"]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    assert report.exists(), f"{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.more
@pytest.mark.timeout(600)
@pytest.mark.skipif(not WAPITI.exists(), reason="make scan installs wapiti")
def test_scan_finds_nothing(
    tmp_path: Path,
    mongodb_uri: str,
    mongodb_client: MongoClient[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No vulnerability and no anomaly but those that are answered; nothing ends in a 5xx."""
    database = f"test_{uuid.uuid4().hex}"
    settings = dict.fromkeys(LIMITS, "1000000")
    server = ServerProcess(
        tmp_path / "data",
        MONGODB_URI=mongodb_uri,
        MONGODB_DATABASE=database,
        ADMIN_PASSWORD=PASSWORD,
        LOG_LEVEL="info",
        **settings,
    )
    scanning = tmp_path / "scan"
    scanning.mkdir()
    try:
        url = server.start()
        with Arranging(url, server.data.find_operator_key() or "") as admin:
            report = scan(prepare(admin, Role.ADMIN), scanning)
    finally:
        server.stop()
        mongodb_client.drop_database(database)
    lines = [json.loads(line) for line in server.log_path.read_text().splitlines() if "{" in line]
    statuses = [line["status"] for line in lines if line.get("event") == "request"]
    findings = {
        name: found
        for kind in ("vulnerabilities", "anomalies")
        for name, found in report[kind].items()
        if found
    }
    with capsys.disabled():
        print(f"\nwapiti: {len(statuses)} requests, found: {sorted(findings) or 'nothing'}")  # noqa: T201
    assert findings.keys() <= ANSWERED.keys(), findings
    assert max(statuses) < 500
    assert len(statuses) > FEWEST_REQUESTS


def test_answers_are_in_the_page() -> None:
    """docs/security.md says why a finding is none."""
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    assert [name for name, why in ANSWERED.items() if f"| {name} | {why} |" not in page] == []


def test_scanner_is_where_the_script_puts_it() -> None:
    """Otherwise the scan would be left out for ever."""
    script = (ROOT / ".ci" / "scan").read_text("utf-8")
    assert str(WAPITI.relative_to(ROOT)) in script
    assert shutil.which("bash") is None or os.access(ROOT / ".ci" / "scan", os.X_OK)
