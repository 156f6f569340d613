"""What ends the demo before its tasks do."""

from __future__ import annotations


class DemoFailed(Exception):
    """The demo can't go on (exit code 1); the message says why and is for the user."""


class DemoRefused(Exception):
    """What was asked for can't be begun (exit code 2); the message says what to change."""
