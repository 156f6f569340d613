"""Makes the application of the contract and the HTTP server with its limits; no I/O here."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from tornado.httputil import (
    HTTPConnection,
    HTTPMessageDelegate,
    ParseBodyConfig,
    ParseMultipartConfig,
    ParseUrlEncodedConfig,
    set_parse_body_config,
)
from tornado.web import Application, RequestHandler

from hive.ports import Services
from server.addresses import AddressResolver, Network
from server.binding import BoundOperation
from server.connection_counts import MAX_CONNECTIONS, MAX_PER_ADDRESS, ConnectionCounts
from server.cors import Cors
from server.http1 import StrictServer
from server.large_bodies import BODY_SECONDS, LargeBodies
from server.load import Load
from server.origins import Origins
from server.pipeline import (
    Audits,
    Authenticates,
    CachesAnswers,
    CarriesOutOnce,
    Charges,
    ChecksSignatures,
    Compresses,
    Judges,
    Permits,
    Pipeline,
)
from server.rate_limits import Unlimited
from server.refusals import Refusals
from server.request_heads import MAX_HEADER_BYTES
from server.rest import RestHandler
from server.routing import Routes
from server.shedding import Gate, Turnstile
from server.versions import Versions

HEADER_SECONDS = 10.0


class HiveApplication(Application):
    """An application with its REST pipeline and its bound operations within reach."""

    pipeline: Pipeline
    gate: Gate

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Let every request through the gate first."""
        serve = partial(super().start_request, server_conn, request_conn)
        return Turnstile(self.gate, request_conn, serve)


def make_app(
    operations: Mapping[str, BoundOperation],
    services: Services,
    authenticator: Authenticates,
    *,
    authorization: Permits,
    signatures: ChecksSignatures,
    audit: Audits,
    new_call_id: Callable[[], str],
    trusted_proxies: Iterable[Network | str] = (),
    origins: Iterable[str] = (),
    max_body_bytes: int = 1024 * 1024,
    max_large_body_bytes: int = 16 * 1024 * 1024,
    load: Load | None = None,
    referee: Judges | None = None,
    cache: CachesAnswers | None = None,
    limits: Charges | None = None,
    idempotency: CarriesOutOnce | None = None,
    compression: Compresses | None = None,
    **settings: Any,
) -> HiveApplication:
    """Make the application of bound operations.

    Every path goes through the REST pipeline, except the rules that `add_handlers` puts in front
    (WebSockets). `origins` are those of other servers whose pages may use cookies. `settings` are
    Tornado's.
    """
    addresses = AddressResolver(trusted_proxies)
    routes = Routes(operations.values())
    allowed_origins = Origins(origins, addresses)
    load = Load() if load is None else load
    pipeline = Pipeline(
        routes=routes,
        services=services,
        authenticator=authenticator,
        authorization=authorization,
        signatures=signatures,
        audit=audit,
        load=load,
        limits=Unlimited() if limits is None else limits,
        versions=Versions(bound.operation for bound in operations.values()),
        addresses=addresses,
        origins=allowed_origins,
        cors=Cors(allowed_origins, operations.values(), routes),
        max_body_bytes=max_body_bytes,
        large_bodies=LargeBodies(max_large_body_bytes),
        new_call_id=new_call_id,
        referee=referee,
        cache=cache,
        idempotency=idempotency,
        compression=compression,
    )
    settings.setdefault("log_function", _log_nothing)
    app = HiveApplication(
        [],
        default_handler_class=RestHandler,
        default_handler_args={"pipeline": pipeline},
        debug=False,
        serve_traceback=False,
        **settings,
    )
    app.pipeline = pipeline
    app.gate = Gate(load, routes, pipeline.new_request_id)
    return app


def make_http_server(
    app: Application,
    *,
    ssl_options: ssl.SSLContext | None = None,
    max_connections: int = MAX_CONNECTIONS,
    max_connections_per_address: int = MAX_PER_ADDRESS,
) -> StrictServer:
    """Make the server with its limits: 16 KiB of headers within 10 s, a body within 10 s.

    It reads no forwarded headers and unpacks no gzip. The pipeline reads bodies itself, so the
    parsers of Tornado get nothing to do; its limit on the fields of a query is lifted, because it
    would end the connection where the pipeline gives a problem. A trusted proxy may have any number
    of the connections.
    """
    set_parse_body_config(
        ParseBodyConfig(
            multipart=ParseMultipartConfig(enabled=False),
            urlencoded=ParseUrlEncodedConfig(max_arguments=MAX_HEADER_BYTES),
        )
    )
    pipeline = app.pipeline if isinstance(app, HiveApplication) else None
    return StrictServer(
        app,
        refusals=Refusals(pipeline) if pipeline else None,
        counts=ConnectionCounts(
            max_connections,
            max_connections_per_address,
            pipeline.addresses.trusts if pipeline else None,
        ),
        xheaders=False,
        decompress_request=False,
        max_header_size=MAX_HEADER_BYTES,
        max_buffer_size=2 * 1024 * 1024,
        idle_connection_timeout=HEADER_SECONDS,
        body_timeout=BODY_SECONDS,
        ssl_options=ssl_options,
    )


def _log_nothing(_handler: RequestHandler) -> None:
    """The pipeline writes its own access log; Tornado's would print whole URLs."""
