"""The contracts of one release, with every `$ref` resolved on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.compatibility.merging import merge
from server.documents import ContractError, load_yaml

OPENAPI = "openapi.yaml"
ASYNCAPI = "asyncapi.yaml"
_DEEPEST = 64


class Release:
    """Both documents. An absent one is empty, so that nothing of it can break."""

    def __init__(
        self, openapi: Mapping[str, Any] | None = None, asyncapi: Mapping[str, Any] | None = None
    ) -> None:
        self._documents: dict[str, dict[str, Any]] = {
            name: _name_documents(document or {}, name)
            for name, document in ((OPENAPI, openapi), (ASYNCAPI, asyncapi))
        }
        self._schemas: dict[int, tuple[Any, dict[str, Any]]] = {}

    @classmethod
    def read(cls, folder: Path) -> Release:
        """Read `openapi.yaml` and `asyncapi.yaml` of the folder. Raise OSError, ContractError."""
        return cls(*(load_yaml((folder / name).read_bytes()) for name in (OPENAPI, ASYNCAPI)))

    @property
    def openapi(self) -> dict[str, Any]:
        """The REST contract."""
        return self._documents[OPENAPI]

    @property
    def asyncapi(self) -> dict[str, Any]:
        """The WebSocket contract."""
        return self._documents[ASYNCAPI]

    def follow(self, node: Any) -> Any:
        """What a `$ref` points to, or the node. Raise ContractError when it leads nowhere."""
        for _ in range(_DEEPEST):
            if not (isinstance(node, dict) and isinstance(node.get("$ref"), str)):
                return node
            file, _, pointer = node["$ref"].partition("#")
            target: Any = self._documents.get(file, {})
            for part in pointer.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, dict) or key not in target:
                    raise ContractError([f"{node['$ref']}: does not exist"])
                target = target[key]
            node = target
        raise ContractError(["a $ref refers to itself"])

    def schema(self, node: Any) -> dict[str, Any]:
        """The schema that a node means, its `allOf` merged; the same object each time."""
        target = self.follow(node)
        if not isinstance(target, dict):  # `true`, or absent: everything.
            target = _EVERYTHING
        if id(target) not in self._schemas:
            # The node is kept, too: its identity is the key.
            self._schemas[id(target)] = (target, merge(target, self.follow))
        return self._schemas[id(target)][1]


_EVERYTHING: dict[str, Any] = {}


def _name_documents(node: Any, name: str) -> Any:
    """A copy whose references all name their document."""
    if isinstance(node, list):
        return [_name_documents(one, name) for one in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _name_documents(value, name) for key, value in node.items()}
    reference = copy.get("$ref")
    if isinstance(reference, str):
        file, _, pointer = reference.partition("#")
        copy["$ref"] = f"{file.removeprefix('./') or name}#{pointer}"
    return copy
