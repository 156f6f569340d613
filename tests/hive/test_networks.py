"""Networks: one form for all spellings, and what is none is pointed at."""

from __future__ import annotations

import pytest

from hive.networks import InvalidNetwork, covers, read_networks, within


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:c000:207", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_kept_in_one_form(written: str, kept: str) -> None:
    """However it is written; IPv4 within IPv6 is IPv4, as the addresses of clients are."""
    assert read_networks([written, kept], pointer="/networks") == (kept,)


@pytest.mark.parametrize(
    "written", ["192.0.2.7/24", "2001:db8::1/32", "10.0.0.0/33", "300.1.1.1", "10.1", "::1::", ":/"]
)
def test_what_is_no_network_is_pointed_at(written: str) -> None:
    """Host bits too: nobody can tell whether the host or the network was meant."""
    with pytest.raises(InvalidNetwork) as caught:
        read_networks(["10.0.0.0/8", written], pointer="/networks")
    assert caught.value.pointer == "/networks/1"


def test_a_network_covers_what_lies_within_it() -> None:
    """Itself and all that is narrower, of the same version."""
    held = ("192.0.2.0/24", "2001:db8::/32")
    inside = ("192.0.2.0/24", "192.0.2.128/25", "192.0.2.7/32", "2001:db8:1::/48")
    outside = ("192.0.0.0/16", "198.51.100.1/32", "0.0.0.0/0", "::/0", "2001:db9::/32")
    assert [covers(held, network) for network in inside] == [True] * 4
    assert [covers(held, network) for network in outside] == [False] * 5
    assert not covers((), "192.0.2.7/32")


def test_an_address_is_within_a_network_whatever_its_form() -> None:
    """IPv4 within IPv6 is IPv4; what is no address is nowhere."""
    held = ("192.0.2.0/24",)
    assert within("192.0.2.7", held)
    assert within("::ffff:192.0.2.7", held)
    assert not within("192.0.3.7", held)
    assert not within("somewhere", ("0.0.0.0/0", "::/0"))
