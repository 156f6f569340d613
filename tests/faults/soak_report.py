"""What a long run showed, in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from tests.faults.experiment import Verdict
from tests.faults.history import Outcome

PROMISES: Mapping[str, frozenset[str]] = {
    "lost tasks": frozenset({"lost-task", "not-ended", "no-event"}),
    "tasks that nobody asked for": frozenset({"unexpected-task"}),
    "double completions": frozenset({"ended-not-once"}),
    "illegal transitions": frozenset({"illegal-move", "started-early", "started-anyway"}),
    "fences that do not increase": frozenset({"fence-not-increasing"}),
    "writes under an old lease": frozenset({"stale-write", "foreign-write", "refused-and-done"}),
    "leases cut short": frozenset({"lease-cut-short"}),
    "acknowledged and lost": frozenset({"lost-report", "lost-grant", "lost-line", "lost-cancel"}),
    "holes in `seq`": frozenset({"seq-hole", "event-changed", "event-repeated", "log-reset"}),
    "holes in the versions of a task": frozenset({"version-hole", "document-differs"}),
    "versions read backwards": frozenset({"backward-read"}),
    "answers against the contract": frozenset({"unexpected-answer"}),
}
"""What must not happen, and the checker's rules that see it."""


def soak_report(verdict: Verdict, faults: Mapping[str, int]) -> str:
    """Markdown; each rule of the checker is counted in one row."""
    rows = [f"| {name} | {value} |" for name, value in _rows(verdict, faults)]
    return "\n".join(["| what | how many |", "|---|---|", *rows, ""])


def _rows(verdict: Verdict, faults: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    history, found = verdict.history, verdict.found
    outcomes = Counter(report.outcome for report in history.reports)
    types = Counter(event["type"] for event in found.events)
    statuses = Counter(task["status"] for task in found.tasks)
    edges = sum(len(task["dependencies"]) for task in found.tasks)
    yield "tasks", f"{len(found.tasks):,}, with {edges:,} dependencies"
    yield "how they ended", ", ".join(f"{statuses[name]:,} {name}" for name in sorted(statuses))
    yield "leases in the log", f"{types['task.started']:,}"
    yield "grants that agents know of", f"{len(history.grants):,}"
    yield "reports of agents", ", ".join(f"{outcomes[each]:,} {each}" for each in Outcome)
    yield "results that came late", f"{types['task.late_result']:,}"
    yield "events", f"{len(found.events):,}"
    yield "seconds", f"{verdict.seconds:,.0f}, reading and judging included"
    yield "faults", f"{sum(faults.values()):,}"
    for kind, times in sorted(faults.items()):
        yield f"- {kind}", f"{times:,}"
    broken = Counter(violation.rule for violation in verdict.violations)
    for promise, rules in PROMISES.items():
        yield f"**{promise}**", f"**{sum(broken[rule] for rule in rules):,}**"
