"""Where the files are that the server shows: contracts, pages, examples.

In a checkout they stand beside the imported packages; a wheel carries them in `server/_bundled/`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


class ResourceMissing(Exception):
    """The installation is incomplete: a file that the server ships with is not there."""


def openapi_path() -> Path:
    """The REST contract."""
    return _find("openapi.yaml")


def asyncapi_path() -> Path:
    """The WebSocket contract."""
    return _find("asyncapi.yaml")


def examples_path() -> Path:
    """The directory of the examples; `data/` in it is the demo's input."""
    return _find("examples")


def _find(name: str) -> Path:
    places = (_PACKAGE.parent / name, _PACKAGE / "_bundled" / name)
    for place in places:
        if place.exists():
            return place
    looked = " or ".join(str(place) for place in places)
    message = f"{name} is missing: expected {looked}"
    raise ResourceMissing(message)
