"""Which agents can run a task: what they can do, and the labels that they have to have.

Both are in one key, by which queues are kept: a claim stays one query over an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from hive.task_spec import TaskSpec, can_run, capability_key


def label_words(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Each label as one word without separators, sorted."""
    return tuple(sorted(f"{quote(key, safe='')}={quote(labels[key], safe='')}" for key in labels))


def queue_key(spec: TaskSpec) -> str:
    """The key of the queue that the task waits in: `cpu|gpu?zone=eu`."""
    return queue_key_of(
        spec.required_capabilities, spec.agent_labels.required if spec.agent_labels else {}
    )


def queue_key_of(required_capabilities: tuple[str, ...], required_labels: Mapping[str, str]) -> str:
    """The key of the queue of what needs these capabilities and labels."""
    key = capability_key(required_capabilities)
    return f"{key}?{'&'.join(label_words(required_labels))}" if required_labels else key


def can_serve(capabilities: frozenset[str], labels: frozenset[str], key: str) -> bool:
    """Tell whether an agent can run what is queued under the key; `labels` are its words."""
    names, _, words = key.partition("?")
    return can_run(capabilities, names) and (not words or labels.issuperset(words.split("&")))
