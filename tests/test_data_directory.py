"""The data directory: one server at a time, private files, no belief in what a dead one left."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from server.data_directory import DataDirectory, DataDirectoryError, DataDirectoryInUse
from tests.servers import wait_until

HOLD = """
import sys
from pathlib import Path
from server.data_directory import DataDirectory
data = DataDirectory(Path(sys.argv[1])).acquire()
data.write_running_server("http://127.0.0.1:1")
print("held", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Another process that holds the directory's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it as an operator might, and reap it."""
    process.kill()
    process.communicate()


def test_a_second_server_is_refused_by_name_and_process(tmp_path: Path) -> None:
    """The message tells which directory and which process, and what to do."""
    first = hold(tmp_path / "var")
    try:
        with pytest.raises(DataDirectoryInUse) as refusal:
            DataDirectory(tmp_path / "var").acquire()
    finally:
        end(first)
    assert refusal.value.pid == first.pid
    for part in (str(tmp_path / "var"), str(first.pid), "AGENTZERO_DATA_DIR"):
        assert part in str(refusal.value)


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    """The kernel releases the lock, however the process ended."""
    end(hold(tmp_path))
    with DataDirectory(tmp_path) as data:
        assert data.find_running_server() is None


def test_a_running_server_is_found_and_a_dead_one_is_not(tmp_path: Path) -> None:
    """`server.json` is believed only while the lock is held."""
    data = DataDirectory(tmp_path / "var")
    assert data.find_running_server() is None
    process = hold(tmp_path / "var")
    try:
        found = data.find_running_server()
        assert found is not None
        assert (found.url, found.pid) == ("http://127.0.0.1:1", process.pid)
    finally:
        end(process)
    assert (tmp_path / "var" / "server.json").exists()
    assert data.find_running_server() is None


def test_asking_for_a_server_does_not_keep_one_from_starting(tmp_path: Path) -> None:
    """The question holds the lock for an instant, and a start looks twice."""
    DataDirectory(tmp_path).acquire().release()
    asking = "from server.data_directory import DataDirectory; from pathlib import Path; import sys"
    asking += "\ndata = DataDirectory(Path(sys.argv[1]))"
    asking += "\nwhile True: data.is_locked(); print(flush=True) if not sys.argv[2:] else None"
    process = subprocess.Popen(
        [sys.executable, "-c", asking, str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(20):
            DataDirectory(tmp_path).acquire().release()
    finally:
        end(process)


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    """Node id and key survive a restart; nobody else can read the files."""
    with DataDirectory(tmp_path / "var") as data:
        data.write_operator_key("azk_example")
        node_id, secret_key = data.node_id(), data.secret_key()
    again = DataDirectory(tmp_path / "var")
    assert again.find_operator_key() == "azk_example"
    with again:
        assert (again.node_id(), again.secret_key()) == (node_id, secret_key)
    assert node_id.startswith("nod_")
    assert len(secret_key) >= 64
    assert mode(tmp_path / "var") == 0o700
    assert {mode(path) for path in (tmp_path / "var").iterdir()} == {0o600}


def test_a_secret_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    """A copied directory may have lost its modes."""
    with DataDirectory(tmp_path) as data:
        data.secret_key()
        (tmp_path / "secret.key").chmod(0o644)
        data.secret_key()
    assert mode(tmp_path / "secret.key") == 0o600


def test_release_says_that_nobody_listens(tmp_path: Path) -> None:
    """A clean end removes `server.json`, and releasing twice is harmless."""
    data = DataDirectory(tmp_path).acquire()
    data.write_running_server("http://127.0.0.1:2")
    found = data.find_running_server()
    assert found is not None
    assert found.pid == os.getpid()
    data.release()
    data.release()
    assert not (tmp_path / "server.json").exists()
    wait_until(lambda: data.find_running_server() is None, "the server is gone")


def test_nothing_is_written_without_the_lock(tmp_path: Path) -> None:
    """A process that does not own the directory can't change it."""
    with pytest.raises(DataDirectoryError, match="not locked"):
        DataDirectory(tmp_path).write_operator_key("azk_example")


def test_a_path_that_is_no_directory_is_refused_in_words(tmp_path: Path) -> None:
    """The operator reads which path and why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError, match="can't be used as the data directory"):
        DataDirectory(tmp_path / "file").acquire()
