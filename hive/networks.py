"""Networks that people write down: read, brought to one form, compared."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from hive.errors import Invalid

_MAPPED_BITS = 96


class InvalidNetwork(Invalid):
    """An address or a network that is none, or that has host bits set."""

    code = "invalid-network"
    title = "Invalid network"


def read_networks(texts: Iterable[str], *, pointer: str) -> tuple[str, ...]:
    """Networks in their canonical form, each once; IPv4 within IPv6 (`::ffff:0:0/96`) as IPv4.

    Raises InvalidNetwork, with a pointer to the entry, also for host bits: whether `192.0.2.7/24`
    means one address or 256 is for who wrote it to say. `pointer` is that of the list.
    """
    found = (_read(text, f"{pointer}/{index}") for index, text in enumerate(texts))
    return tuple(dict.fromkeys(str(network) for network in found))


def covers(networks: Iterable[str], network: str) -> bool:
    """Tell whether one of the networks has all of that network in it."""
    inner = ip_network(network)
    return any(_covers(ip_network(outer), inner) for outer in networks)


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, IPv4 within IPv6 as IPv4; None for what is none.

    Nor is one with a zone (`fe80::1%eth0`, RFC 4007), which means another machine on every link.
    """
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return None if found.scope_id is not None else found.ipv4_mapped or found
    return found


def within(address: str, networks: Iterable[str]) -> bool:
    """Tell whether the address is in one of the networks; what is no address is in none."""
    found = read_address(address)
    return found is not None and any(found in _parsed(network) for network in networks)


# The same few networks are compared at every request.
_parsed = lru_cache(maxsize=4096)(ip_network)


def _read(text: str, pointer: str) -> IPv4Network | IPv6Network:
    if "%" in text:
        raise InvalidNetwork("An address with a zone is in no network.", pointer=pointer)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise InvalidNetwork("This is no IPv4 or IPv6 network.", pointer=pointer) from None
    try:
        ip_network(text)
    except ValueError:
        address = text.partition("/")[0]
        raise InvalidNetwork(
            f"The address has bits beyond the prefix. Say {network} for the network,"
            f" or {address} for the one address.",
            pointer=pointer,
        ) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _covers(outer: IPv4Network | IPv6Network, inner: IPv4Network | IPv6Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)
