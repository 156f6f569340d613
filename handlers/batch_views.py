"""What the contract shows of batches of tasks and of their graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hive.batches import Plan
from hive.graphs import Graph
from hive.tasks import TaskStatus

View = dict[str, Any]


def batch_view(
    batch_id: str,
    keys: Sequence[str | None],
    plan: Plan,
    statuses: Mapping[str, TaskStatus],
) -> View:
    """The schema `BatchReceipt`."""
    shown = [
        ({} if key is None else {"key": key}) | _outcome(plan, index, statuses)
        for index, key in enumerate(keys)
    ]
    made = len(plan.tasks)
    return {
        "batch_id": batch_id,
        "accepted": made,
        "refused": len(keys) - made,
        "tasks": shown,
    }


def _outcome(plan: Plan, index: int, statuses: Mapping[str, TaskStatus]) -> View:
    flaw = plan.flaws.get(index)
    if flaw is not None:
        return {"problem": {"code": flaw.code, "pointer": flaw.pointer, "detail": flaw.detail}}
    task_id = plan.task_ids[index]
    return {"task_id": task_id, "status": statuses[task_id]}


def graph_view(task_id: str, graph: Graph) -> View:
    """The schema `TaskGraph`."""
    return {
        "task_id": task_id,
        "nodes": [
            {"task_id": node.task_id, "name": node.name, "status": node.status}
            for node in graph.nodes.values()
        ],
        "edges": [
            {"dependency": edge.dependency, "dependent": edge.dependent} for edge in graph.edges
        ],
        "truncated": graph.truncated,
    }
