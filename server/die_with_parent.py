"""Become another program that the kernel ends when the process that started it dies.

    python -I -S die_with_parent.py PARENT_PID PROGRAM [ARGUMENT...]

The parent starts this file as a child, and it execs PROGRAM in its place (same process id).
On Linux the kernel then sends SIGKILL as soon as the *thread* that made the child ends
(prctl(2), PR_SET_PDEATHSIG): start it from the main thread. Elsewhere it only execs. It is a
program of its own, for code between fork and exec is not safe in a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
OPEN_FILES = 64_000


def main(parent: int, program: list[str]) -> None:
    """Ask for the signal, and exec; never returns."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:  # It died before we asked.
            raise SystemExit(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    os.execv(program[0], program)  # it is what this program is for  # nosec B606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
