"""nginx with `deploy/nginx.conf` in front of a node, on ports and files of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.edge.certificates import Pair
from tests.servers import ROOT, wait_until

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
NAME = "localhost"


def find_nginx() -> str | None:
    """The program, also where only root has it on its path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Proxy:
    """Where nginx listens, and what it writes down."""

    port: int
    plain_port: int
    directory: Path

    @property
    def log(self) -> str:
        """Both logs of it."""
        files = sorted(self.directory.glob("*.log"))
        return "".join(file.read_text("utf-8", "replace") for file in files)


@contextmanager
def running_nginx(
    program: str, directory: Path, pair: Pair, upstream: int, *others: int
) -> Iterator[Proxy]:
    """Start it, wait until it listens, and end it."""
    port, plain = _free_port(), _free_port()
    text = CONFIGURATION.read_text("utf-8")
    for written, ours, times in (
        ("pid /run/nginx.pid;", f"pid {directory}/nginx.pid;\ndaemon off;", 1),
        ("worker_processes auto;", "worker_processes 1;", 1),
        ("/var/log/nginx/", f"{directory}/", 3),
        ("/etc/agentzero/tls/fullchain.pem", str(pair.certificate), 1),
        ("/etc/agentzero/tls/privkey.pem", str(pair.key), 1),
        ("        server 127.0.0.1:8000 max_fails=0;\n", _servers(upstream, *others), 1),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl", 2),
        (" hive.example;", f" {NAME};", 2),
        ("https://hive.example", f"https://{NAME}", 1),
        ("listen 80 ", f"listen 127.0.0.1:{plain} ", 1),
        ("http {\n", "http {\n" + _places(directory), 1),
    ):
        assert text.count(written) == times, f"{written!r} stands there {text.count(written)} times"
        text = text.replace(written, ours)
    file = directory / "nginx.conf"
    file.write_text(text)
    # Workers of a root nginx are `nobody`, who has to reach what they keep for a while.
    command = [program, "-p", str(directory), "-c", str(file), "-e", f"{directory}/start.log"]
    with subprocess.Popen([*command, "-g", "user root;"] if _is_root() else command) as process:
        try:
            wait_until(lambda: _listens(port, process, directory), "nginx listens")
            yield Proxy(port, plain, directory)
        finally:
            process.terminate()
            process.wait(10)


def _servers(*ports: int) -> str:
    return "".join(f"        server 127.0.0.1:{port} max_fails=0;\n" for port in ports)


def _places(directory: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in kinds)


def _is_root() -> bool:
    return os.geteuid() == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _listens(port: int, process: subprocess.Popen[bytes], directory: Path) -> bool:
    assert process.poll() is None, (directory / "start.log").read_text()
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
