"""Logs: one line per event, nothing forged, no secret, the request named."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from server.logs import REDACTED, configure_logging, request_log

HOSTILE = "a\r\nb\x1b[31m\x7f\x85\u2028\u202e\ud800 é"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging is the process's: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged, and nothing but JSON lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_one_line_per_event_whatever_the_text() -> None:
    """No control character or line separator of a client reaches the log raw."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    structlog.get_logger("hive").info("task.created", name=HOSTILE, labels={HOSTILE: 1})
    (line,) = lines(stream)
    assert line["name"] == HOSTILE
    assert stream.getvalue().rstrip("\n").isprintable()
    assert (line["event"], line["level"], line["logger"]) == ("task.created", "info", "hive")
    assert line["timestamp"].endswith("Z")


def test_console_escapes_hostile_text() -> None:
    """A forged line can't be told from ours unless it is escaped."""
    stream = io.StringIO()
    configure_logging("console", "info", stream)
    structlog.get_logger("hive").info(f"said {HOSTILE}", name=HOSTILE)
    assert stream.getvalue().rstrip("\n").isprintable()
    assert r"\x0d\x0a" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_can_not_forge_a_line(log_format: Any) -> None:
    """The lines of a traceback in a console are indented, JSON has only one."""
    stream = io.StringIO()
    configure_logging(log_format, "info", stream)
    try:
        int("x\n2026-01-01 [info] forged")
    except ValueError:
        structlog.get_logger("hive").exception("request.failed")
    assert "ValueError" in stream.getvalue()
    assert not [line for line in stream.getvalue().splitlines() if line.startswith("2026-01-01")]


def test_secrets_are_replaced_by_name() -> None:
    """At any depth, whatever the case."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    structlog.get_logger("hive").info("login", password="p", headers={"Authorization": "Bearer x"})
    (line,) = lines(stream)
    assert line["password"] == REDACTED
    assert line["headers"] == {"Authorization": REDACTED}


def test_the_standard_library_logs_the_same_way_with_the_request() -> None:
    """Tornado's lines carry the request's identifier; its access log, which has URLs, is off."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    with request_log("req_1"):
        logging.getLogger("tornado.application").error("broken %s", "pipe")
        logging.getLogger("tornado.access").warning("GET /ws?token=hunter2")
    logging.getLogger("pymongo").info("noise")
    logging.getLogger("tornado.general").info("after")
    broken, after = lines(stream)
    assert (broken["event"], broken["request_id"]) == ("broken pipe", "req_1")
    assert "request_id" not in after


def test_the_level_filters() -> None:
    """Warnings only, when that is asked for."""
    stream = io.StringIO()
    configure_logging("json", "warning", stream)
    structlog.get_logger("hive").info("quiet")
    structlog.get_logger("hive").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]
