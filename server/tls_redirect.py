"""The port without TLS beside the one with it: it leads pages over, and refuses the API.

A browser that was given `http://` is led to `https://`. A program that calls the API there has a
wrong address: a redirect would hide that, and its credential would go over the network in the
clear with every call. It gets 403 `tls-required`, whatever it asks for.
"""

from __future__ import annotations

import re
from typing import Any

from tornado.web import Application, RequestHandler
from typeid import TypeID

from hive.errors import Forbidden
from server.answers import SECURITY_HEADERS, encode_json
from server.problems import PROBLEM_JSON, build_problem

HTTPS_PORT = 443
_NOT_FOR_PAGES = re.compile(r"/(api|ws|graphql)(/|$)", re.IGNORECASE)
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class TlsRequired(Forbidden):
    """The API was called without TLS."""

    code = "tls-required"
    title = "TLS required"
    default_detail = (
        "This API is served over TLS only. "
        "A credential in this request went over the network unprotected: replace it."
    )


class RedirectHandler(RequestHandler):
    """Answers every request of the port without TLS."""

    def initialize(self, port: int) -> None:
        """Take the port that speaks TLS."""
        self.port = port

    def prepare(self) -> None:
        """Lead a page over (308), refuse anything else (403)."""
        location = self._location()
        if location is None:
            self._refuse()
            return
        self.set_status(308)
        self.set_header("Location", location)
        self.finish()

    def set_default_headers(self) -> None:
        """As on every answer; nothing here is kept (`no-store`), and HSTS is for TLS only."""
        self.clear_header("Server")
        self.clear_header("Content-Type")
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Refuse what Tornado refuses, too."""
        del status_code
        self._refuse()

    def _refuse(self) -> None:
        problem = build_problem(
            TlsRequired(), instance=self.request.path, request_id=str(TypeID("req"))
        )
        self.set_status(problem.status)
        self.set_header("Content-Type", PROBLEM_JSON)
        self.finish(encode_json(problem.members))

    def _location(self) -> str | None:
        """Where the page is, when it is one and no credential came with the request."""
        request = self.request
        host = _HOST.fullmatch(request.headers.get("Host", ""))
        if (
            request.method not in ("GET", "HEAD")
            or host is None
            or request.query
            or {"Authorization", "Cookie"} & request.headers.keys()
            or _NOT_FOR_PAGES.match(request.path)
            or not request.path.startswith("/")
        ):
            return None
        port = "" if self.port == HTTPS_PORT else f":{self.port}"
        return f"https://{host[1]}{port}{request.path}"


def make_redirect_app(port: int) -> Application:
    """The application of the port without TLS; `port` is the one with it."""
    return Application(
        [],
        default_handler_class=RedirectHandler,
        default_handler_args={"port": port},
        log_function=lambda _: None,
    )
