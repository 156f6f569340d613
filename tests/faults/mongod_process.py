"""A mongod of several nodes, started again whenever it dies.

python -m tests.faults.mongod_process DIRECTORY

Its URI is in the file `uri` of the directory once it takes writes. It runs until this is killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from server.embedded import EmbeddedMongo


async def run(directory: Path) -> None:
    """Start it and watch it."""
    uri = await EmbeddedMongo(directory / "mongo", directory / "mongod.log").start()
    draft = directory / "uri.new"
    draft.write_text(uri)
    draft.replace(directory / "uri")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
