"""What the contract shows of the hive as a whole. Absent, never null."""

from __future__ import annotations

from typing import Any

from hive.agents import AgentStatus
from hive.coordination import HiveControl
from hive.coordination_ports import CapabilityUse, Leader, QueueDepth, TakenBack
from hive.diagnosis import CAUSES, Diagnosis
from hive.nodes import NodeInfo
from hive.tasks import Task

View = dict[str, Any]


def hive_view(hive: HiveControl) -> View:
    """Whether the hive grants leases, and why it does not."""
    view: View = {"state": hive.state}
    return view if hive.reason is None else view | {"reason": hive.reason}


def node_view(node: NodeInfo) -> View:
    """The schema `HiveNode`."""
    return {
        "node_id": node.node_id,
        "version": node.version,
        "address": node.address,
        "duties": node.duties,
        "started_at": node.started_at,
        "seen_at": node.seen_at,
        "alive": node.is_alive,
        "draining": node.is_draining,
    }


def capability_view(use: CapabilityUse) -> View:
    """The schema `CapabilityUse`: every status is counted, those without an agent too."""
    counts = {status.value: use.agents.get(status.value, 0) for status in AgentStatus}
    return {"capability": use.capability, "agents": counts}


def queue_depth_view(depth: QueueDepth) -> View:
    """The schema `QueueDepth`."""
    return {
        "required_capabilities": depth.required_capabilities,
        "priority": depth.priority,
        "tasks": depth.tasks,
        "oldest_seconds": depth.oldest_seconds,
    }


def leader_view(leader: Leader) -> View:
    """The schema `Leader`."""
    return {
        "duty": leader.duty,
        "node_id": leader.node_id,
        "term": leader.term,
        "expires_at": leader.expires_at,
        "current": leader.is_current,
    }


def diagnosis_view(task: Task, diagnosis: Diagnosis | None) -> View:
    """The schema `TaskDiagnosis`."""
    view: View = {
        "task_id": task.task_id,
        "name": task.spec.name,
        "status": task.status,
        "version": task.version,
        "created_at": task.created_at,
        "waits": diagnosis is not None,
        "required_capabilities": task.spec.required_capabilities,
    }
    if diagnosis is None:
        return view
    detail, remedy = CAUSES[diagnosis.cause]
    view |= {"cause": diagnosis.cause, "detail": detail, "remedy": remedy}
    if diagnosis.waiting_on:
        view["waiting_on"] = diagnosis.waiting_on
    if diagnosis.run_at is not None:
        view["run_at"] = diagnosis.run_at
    if diagnosis.concurrency_key is not None:
        view["concurrency_key"] = diagnosis.concurrency_key
    return view


def taken_back_view(one: TakenBack) -> View:
    """The schema `TakenBack`."""
    return {"task_id": one.task_id, "agent_id": one.agent_id, "reason": one.reason}
