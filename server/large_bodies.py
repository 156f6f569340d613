"""Room for bodies over the general limit, of the operations that take them (`x-max-body-bytes`).

Such a body is kept only for whoever may run the operation, and as long as all of them together fit:
whether they do is known from `Content-Length`, before the first byte is read.
"""

from __future__ import annotations

from typing import Final

from server.load import Overloaded
from server.operations import Operation

BODY_SECONDS: Final = 10.0
"""In which any body has to arrive."""
AT_ONCE: Final = 4
"""So many of the largest size may be under way on a node."""
BYTES_PER_SECOND: Final = 256 * 1024
"""A large body has more time, if it needs that at this speed."""
RETRY_SECONDS: Final = 2


class LargeBodies:
    """What is reserved on this node. `most_bytes` bounds one body, whatever the contract allows."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._room = AT_ONCE * most_bytes

    @property
    def room(self) -> int:
        """The bytes that are not reserved."""
        return self._room

    def limit_of(self, operation: Operation, general: int) -> int:
        """How large a body of the operation may be, where others may be `general`."""
        declared = operation.max_body_bytes
        return general if declared is None else max(general, min(declared, self._most_bytes))

    def reserve(self, size: int) -> None:
        """Take so much room. Raises Overloaded."""
        if size > self._room:
            raise Overloaded(retry_after_seconds=RETRY_SECONDS)
        self._room -= size

    def give_back(self, size: int) -> None:
        """Let others have it."""
        self._room += size


def seconds_for(size: int) -> float:
    """How long a body of this size may take to arrive."""
    return max(BODY_SECONDS, size / BYTES_PER_SECOND)
