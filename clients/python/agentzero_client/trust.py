"""Whose certificate is believed: what was given, else AGENTZERO_CA_FILE, else the system's."""

from __future__ import annotations

import os
import ssl

CA_VARIABLE = "AGENTZERO_CA_FILE"


def tls_context(given: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """Give the context for https and wss; None means the system's authorities.

    AGENTZERO_CA_FILE names a file with the certificates (PEM) to believe instead. Raise OSError
    when it can't be read, ssl.SSLError when there is none in it.
    """
    if given is not None:
        return given
    file = os.environ.get(CA_VARIABLE)
    return ssl.create_default_context(cafile=file) if file else None
