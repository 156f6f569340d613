"""Reads the contract documents and compiles their schemas.

YAML is read as YAML 1.2 means it: `no`, `on` and `2026-11-21` are strings, a key stands once.
`$ref`s stay as they are; the compiled validators resolve them through one registry, so a schema
means what the document says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jsonschema_rs
import yaml

MAX_ERRORS = 16
MAX_DETAIL = 200
MAX_POINTER = 200
# Above this size only the first error is looked for: listing 100,000 errors takes two seconds.
_LIST_ERRORS_BELOW = 4096

_UNSEEN = re.compile("[\u202a-\u202e]")
_ILLEGIBLE = (
    "The value has a control character, a line break, or a character that changes the direction "
    "of text."
)
_BASE = "contract:///"


class ContractError(Exception):
    """A contract document that cannot be served: start-up stops, every problem on its own line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "The contract cannot be served:\n" + "\n".join(f"- {p}" for p in self.problems)
        )


class _Loader(yaml.CSafeLoader):
    """The C parser with the core schema of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own class attribute

    def construct_mapping(self, node: Any, deep: Any = False) -> dict[Any, Any]:  # noqa: FBT002
        """Refuse a key that stands twice."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*|(?=[eE])))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


class _KeyPattern:
    """`x-key-pattern`: every key of the object matches. OpenAPI 3.0 has no `propertyNames`."""

    def __init__(self, _parent: dict[str, Any], pattern: str, _path: list[str | int]) -> None:
        self._pattern = pattern
        self._key = jsonschema_rs.Draft4Validator(
            {"type": "string", "pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions()
        )

    def validate(self, instance: Any) -> None:
        """Raise ValueError when a key does not match."""
        if isinstance(instance, dict) and not all(map(self._key.is_valid, instance)):
            raise ValueError(f"A key does not match {self._pattern}")


class Schema:
    """One compiled schema. Patterns run in linear time whatever the input is."""

    __slots__ = ("_validator",)

    def __init__(self, validator: jsonschema_rs.Validator) -> None:
        self._validator = validator

    def is_valid(self, value: Any) -> bool:
        """Tell whether the value matches."""
        return self._validator.is_valid(value)

    def errors(self, value: Any, *, size: int = 0) -> list[tuple[str, str]]:
        """Up to 16 pairs of JSON Pointer and detail; the value itself is never quoted.

        `size` is that of the encoded value in bytes; of a large one only the first error is told.
        """
        if size > _LIST_ERRORS_BELOW:
            try:
                self._validator.validate(value)
            except jsonschema_rs.ValidationError as error:
                return [_describe(error)]
            return []
        return [
            _describe(error) for error in islice(self._validator.iter_errors(value), MAX_ERRORS)
        ]


class Documents:
    """The contract documents by file name, and the schemas in them."""

    def __init__(self, documents: Mapping[str, tuple[bytes, dict[str, Any]]]) -> None:
        self._sources = {name: source for name, (source, _) in documents.items()}
        self._documents = {name: document for name, (_, document) in documents.items()}
        resources = [(_BASE + name, document) for name, document in self._documents.items()]
        self._registries = {
            draft: jsonschema_rs.Registry(resources, draft=draft)
            for draft in (jsonschema_rs.Draft4, jsonschema_rs.Draft7)
        }

    @classmethod
    def read(cls, *paths: Path) -> Documents:
        """Read the files; a later one may refer to an earlier one by its relative name."""
        return cls({path.name: (source := path.read_bytes(), load_yaml(source)) for path in paths})

    def get(self, name: str) -> dict[str, Any]:
        """The document, empty when it was not read."""
        return self._documents.get(name, {})

    def __contains__(self, name: str) -> bool:
        return name in self._documents

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._documents[name]

    def source(self, name: str) -> bytes:
        """The document as it was read, byte for byte."""
        return self._sources[name]

    def follow(self, name: str, node: Any) -> tuple[str, Any]:
        """Resolve a chain of `$ref`s from a node of a document; give the target's document, too."""
        for _ in range(64):
            if not (isinstance(node, dict) and isinstance(node.get("$ref"), str)):
                return name, node
            file, _, pointer = node["$ref"].partition("#")
            name = file.removeprefix("./") or name
            if name not in self._documents:
                raise ContractError([f"{node['$ref']}: no such document"])
            node = self._lookup(name, unquote(pointer))
        raise ContractError([f"{name}: a $ref refers to itself"])

    def _lookup(self, name: str, pointer: str) -> Any:
        node: Any = self._documents[name]
        for part in pointer.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")  # noqa: PLW2901
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise ContractError([f"{name}#{pointer}: does not exist"]) from None
        return node

    def compile(
        self, name: str, path: Iterable[str | int], *, draft: int = jsonschema_rs.Draft4
    ) -> Schema:
        """Compile the schema at the path of keys; raise ContractError when it is none."""
        pointer = join_pointer(path)
        reference = {"$ref": f"{_BASE}{name}#{quote(pointer)}"}
        make = {
            jsonschema_rs.Draft4: jsonschema_rs.Draft4Validator,
            jsonschema_rs.Draft7: jsonschema_rs.Draft7Validator,
        }[draft]
        try:
            validator = make(
                reference,
                registry=self._registries[draft],
                validate_formats=True,
                pattern_options=jsonschema_rs.RegexOptions(),
                keywords={"x-key-pattern": _KeyPattern},
                mask="The value",
                offline=True,
            )
        except jsonschema_rs.ValidationError as error:
            place = join_pointer(error.instance_path) or pointer
            raise ContractError([f"{name}#{place}: {error.message}"]) from error
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            raise ContractError([f"{name}#{pointer}: {error}"]) from error
        return Schema(validator)


def load_yaml(source: bytes) -> dict[str, Any]:
    """Read one YAML document that is a mapping."""
    try:
        document = yaml.load(source, Loader=_Loader)  # noqa: S506 - a SafeLoader  # nosec B506
    except yaml.YAMLError as error:
        raise ContractError([str(error)]) from error
    if not isinstance(document, dict):
        raise ContractError(["the document is not a mapping"])
    return document


def join_pointer(path: Iterable[str | int]) -> str:
    """The JSON Pointer (RFC 6901) of a path of keys and indexes."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def shorten(text: str, limit: int = MAX_DETAIL) -> str:
    """The text, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _describe(error: jsonschema_rs.ValidationError) -> tuple[str, str]:
    pointer = shorten(
        join_pointer(shorten(str(p), MAX_POINTER) for p in error.instance_path), MAX_POINTER
    )
    # A pattern that names what nobody can see is better said in words.
    message = _ILLEGIBLE if _UNSEEN.search(error.message) else error.message
    return pointer, shorten(message)
