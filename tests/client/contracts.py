"""Judges what client and fake say to each other by the two contracts."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

ROOT = Path(__file__).resolve().parents[2]
OWN = "#/components/schemas/"
REST = "./openapi.yaml" + OWN
REST_HERE = "#/rest/"


class Contracts:
    """Finds the schema of a body or a frame and names what does not match it."""

    def __init__(self) -> None:
        # Both contracts have schemas of the same names: those of REST move aside.
        rest = json.dumps(yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8")))
        self._rest = json.loads(rest.replace(OWN, REST_HERE))
        text = json.dumps(yaml.safe_load((ROOT / "asyncapi.yaml").read_text(encoding="utf-8")))
        self._frames = json.loads(text.replace(REST, REST_HERE))
        self._shared = self._rest["components"]["schemas"]
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def request(self, method: str, path: str, body: Any) -> str | None:
        """What is wrong with the body of a request, or None."""
        operation = self._operation(method, path)
        if operation is None:
            return f"{method} {path} is not in the contract"
        content = operation.get("requestBody", {}).get("content")
        if content is None:
            return None if body is None else f"{method} {path} takes no body"
        return self._judge(f"{method} {path} <-", content["application/json"]["schema"], body)

    def response(self, method: str, path: str, status: int, body: Any) -> str | None:
        """What is wrong with the body of an answer, or None."""
        operation = self._operation(method, path)
        if operation is None:
            return None
        answer = operation["responses"].get(str(status))
        if answer is None:
            return None  # A status that a proxy or a later version of the contract adds.
        if "$ref" in answer:
            answer = self._rest["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        (media,) = answer["content"].values()
        return self._judge(f"{method} {path} -> {status}", media["schema"], body)

    def frame(self, frame: dict[str, Any]) -> str | None:
        """What is wrong with a frame of either side, or None."""
        kind = str(frame.get("type"))
        for message in self._frames["components"]["messages"].values():
            payload = message["payload"]
            if kind in _types(payload):
                return self._judge(f"frame {kind}", payload, frame)
        return f"frame {kind} is not in the contract"

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for template, item in self._rest["paths"].items():
            if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
                found: dict[str, Any] | None = item.get(method.lower())
                return found
        return None

    def _judge(self, what: str, schema: dict[str, Any], value: Any) -> str | None:
        text = json.dumps(schema)
        if text not in self._validators:
            own = self._frames["components"]["schemas"]
            whole = {"allOf": [schema], "rest": self._shared, "components": {"schemas": own}}
            self._validators[text] = jsonschema_rs.Draft4Validator(whole)
        errors = [error.message for error in self._validators[text].iter_errors(value)]
        return f"{what}: {'; '.join(errors)}" if errors else None


@cache
def contracts() -> Contracts:
    """The contracts of this checkout, read once."""
    return Contracts()


def _types(payload: dict[str, Any]) -> list[str]:
    parts = [payload, *payload.get("allOf", [])]
    return [
        kind
        for part in parts
        for kind in part.get("properties", {}).get("type", {}).get("enum", [])
    ]
