"""The client's address can't be forged."""

from __future__ import annotations

import pytest

from server.addresses import AddressResolver

PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.9", ["1.2.3.4"], "203.0.113.9"),
        ("203.0.113.9", [], "203.0.113.9"),
        ("::ffff:203.0.113.9", ["1.2.3.4"], "203.0.113.9"),
        (PROXY, [], PROXY),
        (PROXY, ["198.51.100.7"], "198.51.100.7"),
        (PROXY, ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
        (PROXY, ["1.2.3.4", "198.51.100.7"], "198.51.100.7"),
        (PROXY, ["1.2.3.4, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        (PROXY, ["::ffff:198.51.100.7"], "198.51.100.7"),
        (PROXY, ["198.51.100.7:4711"], "198.51.100.7"),
        (PROXY, ["[2001:db8::7]:4711"], "2001:db8::7"),
        (PROXY, ["2001:DB8:0::7"], "2001:db8::7"),
        (PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (PROXY, ["1.2.3.4, garbage"], PROXY),
        (PROXY, ["1.2.3.4, garbage, 10.0.0.2"], "10.0.0.2"),
        (PROXY, ["fe80::1%eth0"], PROXY),
        (PROXY, ["0177.0.0.1"], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, [", ,"], PROXY),
        ("0.0.0.0", ["1.2.3.4"], "0.0.0.0"),
    ],
)
def test_client_address(peer: str, forwarded_for: list[str], address: str) -> None:
    """Only what a trusted proxy wrote counts, read from the right."""
    assert AddressResolver(["10.0.0.0/8"]).resolve(peer, forwarded_for) == address


def test_without_trusted_proxies_the_header_is_never_read() -> None:
    """The default trusts nobody."""
    assert AddressResolver().resolve("127.0.0.1", ["1.2.3.4"]) == "127.0.0.1"


def test_a_long_chain_ends() -> None:
    """A megabyte of hops costs no more than 32 of them."""
    assert (
        AddressResolver(["10.0.0.0/8"]).resolve(PROXY, [",".join(["10.0.0.2"] * 10_000)])
        == "10.0.0.2"
    )
