"""Where an engine is: ws://HOST:PORT."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from .protocol import ProtocolError


def split_url(url: str) -> tuple[str, int]:
    """Host and port of ws://HOST:PORT. Raises ProtocolError for any other form."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if (
        not host
        or not port
        or parts.scheme != "ws"
        or parts.username
        or parts.path not in ("", "/")
        or parts.query
    ):
        raise ProtocolError(
            "The engine's address must be ws://HOST:PORT",
            url,
            "For an engine elsewhere, tunnel its port with ssh and use ws://127.0.0.1:PORT.",
            "bad_url",
        )
    return host, port


def is_loopback(url: str) -> bool:
    """Whether the engine at `url` is on this machine, so that no network is needed. Raises ProtocolError."""
    host, _ = split_url(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
