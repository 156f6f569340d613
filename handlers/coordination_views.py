"""What the contract shows of the hive as a whole. Absent, never null."""

from __future__ import annotations

from typing import Any

from hive.agents import AgentStatus
from hive.coordination import HiveControl
from hive.coordination_ports import CapabilityUse, Leader, QueueDepth
from hive.nodes import NodeInfo

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
