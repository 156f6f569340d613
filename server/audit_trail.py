"""The audit log of a node, put together: from the calls to the chain and what looks after it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from typeid import TypeID

from hive.audit_ports import AuditChains, AuditLog, AuditReader, Checkpoints
from hive.duty_ports import Leadership
from server.audit import Audit
from server.audit_checkpoints import CheckpointSigner
from server.audit_completion import Completion
from server.audit_duty import DUTY, Auditor, ChainEnds
from server.audit_records import AuditRecords, CallIdentifiers
from server.audit_retention import AuditRetention
from server.audit_writer import AuditWriter
from server.contract import Operation
from server.duties import Duty


class AuditStore(AuditReader, AuditLog, AuditChains, Protocol):
    """All of it is in one place."""


class AuditTrail:
    """Life cycle: `open` before the first call, `close` after the last one."""

    def __init__(
        self,
        store: AuditStore,
        checkpoints: Checkpoints,
        leadership: Leadership,
        key: bytes,
        *,
        node_id: str,
        operations: Iterable[Operation],
        retention_days: float,
    ) -> None:
        boot = str(TypeID("boo"))
        began_ms = round(time.time() * 1000)
        self.identifiers = CallIdentifiers(node_id)
        signer = CheckpointSigner(checkpoints, key, boot)
        self.writer = AuditWriter(store, AuditRecords(operations), signer, boot=boot)
        self.audit = Audit(self.writer)
        self._store = store
        self._node_id = node_id

        def completion(position: int) -> Completion:
            return Completion(
                store, self.writer, self.identifiers, began_ms=began_ms, position=position
            )

        retention = AuditRetention(store, checkpoints, key, days=retention_days, boot=boot)
        ends = ChainEnds(store, checkpoints, key, node_id=node_id, boot=boot)
        self.auditor = Auditor(leadership, completion, retention, ends, node_id=node_id)
        self.duty = Duty(DUTY, leadership, node_id, self.auditor.work)

    async def open(self) -> None:
        """Begin the chain. Raises Unavailable."""
        await self._store.open_boot(self.writer.boot, self._node_id)
        self.writer.start()

    async def close(self) -> None:
        """End the chain."""
        await self.writer.stop()
