"""The figures as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.dispatch.figures import Figures, Plan, Row

MOST_P99_MS = 10.0
LEAST_PER_SECOND = 1_000.0
OURS = "AgentZero API"


def describe(
    figures: Figures, plan: Plan, rounds: int, *, measured: str, notes: Sequence[str]
) -> str:
    """Tables, what became of the aims, and how it was done."""
    parts = ["# From submission to start, and to the end", "", measured, ""]
    if figures.latencies:
        parts += latency_table(figures)
    if figures.rates:
        parts += rate_table(figures, plan, rounds)
    versions = ", ".join(f"{name} {number}" for name, number in sorted(figures.versions.items()))
    texts = [note.format(slots=plan.slots, at_once=plan.at_once) for note in notes]
    parts += ["## How", "", *(f"- {text}" for text in texts), f"- Versions: {versions}."]
    return "\n".join(parts) + "\n"


def latency_table(figures: Figures) -> list[str]:
    """From before the submission to the first line of the task, on idle systems."""
    lines = [
        "## Dispatch latency",
        "",
        "| what | durable | tasks | p50 ms | p99 ms | most ms |",
        "|---|---|---|---|---|---|",
    ]
    for row, delays in figures.latencies.items():
        lines.append(
            f"| {row.name} | {row.durable} | {len(delays)} | {percentile(delays, 50):.1f} |"
            f" {percentile(delays, 99):.1f} | {max(delays):.1f} |"
        )
    lines.append("")
    for row, delays in figures.latencies.items():
        if row.name.startswith(OURS):
            p99 = percentile(delays, 99)
            lines.append(
                f"- {row.name}: p99 {p99:.1f} ms; at most {MOST_P99_MS:.0f} ms are wanted:"
                f" {verdict(is_met=p99 < MOST_P99_MS)}."
            )
    return [*lines, ""]


def rate_table(figures: Figures, plan: Plan, rounds: int) -> list[str]:
    """Tasks a second, end to end."""
    heads = "".join(f" {count} |" for count in plan.workers)
    told = (
        f"{plan.tasks:,} tasks that do nothing, {rounds} rounds: the median and, where there is"
        " more than one, the range. Tasks/s by the number of workers."
    )
    lines = [
        "## Throughput",
        "",
        told,
        "",
        f"| what | submitted by | durable | done when |{heads}",
        f"|---|---|---|---|{'---|' * len(plan.workers)}",
    ]
    for row, rates in figures.rates.items():
        cells = "".join(f" {spread(rates[count])} |" for count in plan.workers)
        how = row.how.format(at_once=plan.at_once)
        lines.append(f"| {row.name} | {how} | {row.durable} | {row.done} |{cells}")
    lines.append("")
    ours = [row for row in figures.rates if row.name.startswith(OURS)]
    lines += [
        f"- {row.name}: {best(figures, row):,.0f} tasks/s at best; {LEAST_PER_SECOND:,.0f} are"
        f" wanted: {verdict(is_met=best(figures, row) >= LEAST_PER_SECOND)}."
        for row in ours
    ]
    return [*lines, ""]


def percentile(values: Sequence[float], percent: int) -> float:
    """In the units of the values."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def spread(rates: Sequence[float]) -> str:
    """The median, and the range."""
    middle = f"{statistics.median(rates):,.0f}"
    return middle if len(rates) == 1 else f"{middle} ({min(rates):,.0f}-{max(rates):,.0f})"


def best(figures: Figures, row: Row) -> float:
    """The highest median."""
    return max(statistics.median(rates) for rates in figures.rates[row].values())


def verdict(*, is_met: bool) -> str:
    """In a word."""
    return "met" if is_met else "MISSED"
