"""How commands talk to the server that runs on the data directory: REST, as the operator."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from server.cli_exits import FAILED, refuse
from server.data_directory import DataDirectory, RunningServer

TIMEOUT_SECONDS = 30.0
PAGE = 200
_NEXT = '>; rel="next"'
_END = "-----END CERTIFICATE-----"
_ADVICE: Mapping[str, str] = dict.fromkeys(
    ("signature-required", "address-not-allowed"),
    " Stop the server and run this command again: it changes the database itself then.",
)
"""What to do, by the code of the refusal: about what can be done without a server."""


@dataclass(frozen=True, slots=True)
class OperatorLink:
    """A running server, and the operator's key to it."""

    server: RunningServer
    key: str

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of the answer; exits with FAILED when it is a refusal or there is none."""
        return self._fetch(method, path, body)[0]

    def pages(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        """All items of a list."""
        following: str | None = f"{path}?{urlencode({**query, 'limit': PAGE})}"
        while following is not None:
            items, link = self._fetch("GET", following, None)
            yield from items
            following = link.removeprefix("<").removesuffix(_NEXT) if _NEXT in link else None

    def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[Any, str]:
        from tornado.httpclient import HTTPClient, HTTPClientError  # noqa: PLC0415 - for `--help`

        url = self.server.url
        headers = {"Authorization": f"Bearer {self.key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        client = HTTPClient()
        try:
            response = client.fetch(
                url + path,
                method=method,
                headers=headers,
                body=None if body is None else json.dumps(body),
                allow_nonstandard_methods=True,
                request_timeout=TIMEOUT_SECONDS,
                ssl_options=_trust(self.server.certificate),
                raise_error=False,
            )
        except (OSError, HTTPClientError) as error:
            raise refuse(f"The server at {url} does not answer: {error}", FAILED) from None
        finally:
            client.close()
        answer = json.loads(response.body or b"{}")
        if response.error is not None:
            reason = answer.get("detail", response.reason)
            advice = _ADVICE.get(answer.get("code", ""), "")
            message = f"The server at {url} refused ({response.code}): {reason}{advice}"
            raise refuse(message, FAILED)
        return answer, response.headers.get("Link", "")


def _trust(certificate: str | None) -> ssl.SSLContext | None:
    """Trust in the one certificate that the server said it has, under whatever name it is asked."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate[: certificate.index(_END) + len(_END)] + "\n")
    return context


def find_link(directory: DataDirectory) -> OperatorLink | None:
    """The server that runs on the directory; None without one. Exits when its key is missing."""
    server = directory.find_running_server()
    if server is None:
        return None
    key = directory.find_operator_key()
    if key is None:
        raise refuse(f"There is no {directory.operator_key_path}; start the server again.")
    return OperatorLink(server, key)
