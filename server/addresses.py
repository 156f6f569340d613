"""The one address of a client, used for limits, audit and allowlists alike.

It is the socket's peer. Only when the peer is a trusted proxy, `X-Forwarded-For` is read from the
right: the first address that is not a trusted proxy's is the client. Whatever the client wrote
further left is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from hive.networks import read_address

Network = IPv4Network | IPv6Network
_MAX_HOPS = 32


class AddressResolver:
    """Finds the client's address; holds the networks of the trusted proxies."""

    def __init__(self, trusted_proxies: Iterable[Network | str] = ()) -> None:
        self._trusted = tuple(ip_network(str(network)) for network in trusted_proxies)

    def resolve(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Give the address of the client; `forwarded_for` has the header's lines in their order."""
        current = _parse(peer)
        if current is None:
            return peer
        hops = [hop for line in forwarded_for for hop in line.split(",")][-_MAX_HOPS:]
        while hops and self._is_trusted(current):
            following = _parse(hops.pop())
            if following is None:
                break
            current = following
        return str(current)

    def scheme(self, peer: str, protocol: str, forwarded_proto: Sequence[str]) -> str:
        """Give the scheme that the client used: the connection's, or what a trusted proxy says."""
        current = _parse(peer)
        if current is None or not self._is_trusted(current) or not forwarded_proto:
            return protocol
        said = forwarded_proto[-1].rpartition(",")[2].strip(" \t").lower()
        return said if said in ("http", "https") else protocol

    def trusts(self, peer: str) -> bool:
        """Tell whether the peer is a trusted proxy."""
        address = _parse(peer)
        return address is not None and self._is_trusted(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(
            address.version == network.version and address in network for network in self._trusted
        )


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with or without a port."""
    text = text.strip(" \t")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return read_address(text)
