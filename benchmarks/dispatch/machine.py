"""What was measured on: processors, the disk, and what a flush to it takes."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path

FLUSHES = 100
BLOCK = b"x" * 4_096


def file_system(folder: Path) -> str:
    """Its kind (`ext4`, `tmpfs`), or `unknown`."""
    best, kind = "", "unknown"
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return kind
    place = folder.resolve()
    for line in mounts.read_text().splitlines():
        _, point, found, *_ = line.split()
        if place.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def flush_ms(folder: Path) -> float:
    """How long it takes to append 4 KiB to a file and have them on the disk: the median."""
    took = []
    path = folder / "flushed"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(FLUSHES):
            began = time.perf_counter()
            os.write(file, BLOCK)
            os.fdatasync(file)
            took.append((time.perf_counter() - began) * 1_000)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(took)


def describe_machine(folder: Path) -> str:
    """In a sentence."""
    return (
        f"{os.cpu_count()} processors ({platform.machine()}) for everything, Python"
        f" {platform.python_version()}, data on {file_system(folder)}, where a flush of 4 KiB takes"
        f" {flush_ms(folder):.2f} ms"
    )
