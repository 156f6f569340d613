"""Identifiers: TypeIDs, a prefix and a UUIDv7, ordered by the time they are made."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

from typeid import TypeID
from uuid_utils import UUID


class TypeIdentifiers:
    """The port `hive.ports.Identifiers`."""

    def new(self, prefix: str) -> str:
        """A new identifier."""
        return str(TypeID(prefix))


def scheduled_task_id(schedule_id: str, time: datetime) -> str:
    """The identifier of the task of a schedule at a time: always the same, and no other's.

    A UUIDv7 (RFC 9562) of that time; what is random in others is the hash of schedule and time.
    """
    milliseconds = round(time.timestamp() * 1000)
    digest = sha256(f"{schedule_id}/{milliseconds}".encode()).digest()
    number = bytearray(milliseconds.to_bytes(6) + digest[:10])
    number[6] = 0x70 | (number[6] & 0x0F)
    number[8] = 0x80 | (number[8] & 0x3F)
    return str(TypeID.from_uuid(UUID(bytes=bytes(number)), prefix="tsk"))
