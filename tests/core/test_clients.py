"""Which address does a request come from?"""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard.clients import Proxies

TRUSTED = Proxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
CLIENT = "203.0.113.7"


@pytest.mark.parametrize(
    "forwarded", [(), ("1.2.3.4",), ("10.0.0.1",), ("127.0.0.1, 10.0.0.1",)], ids=repr
)
def test_nobody_is_believed_by_default(forwarded: tuple[str, ...]) -> None:
    """Without trusted proxies the peer is the client, whatever it says of others."""
    assert Proxies().client("10.0.0.9", forwarded) == "10.0.0.9"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        pytest.param(CLIENT, (), CLIENT, id="direct"),
        pytest.param(CLIENT, ("1.2.3.4",), CLIENT, id="a stranger's word"),
        pytest.param(CLIENT, ("10.0.0.1",), CLIENT, id="a stranger that claims to be a proxy"),
        pytest.param("10.0.0.1", (), "10.0.0.1", id="a proxy that speaks for itself"),
        pytest.param("10.0.0.1", (CLIENT,), CLIENT, id="one proxy"),
        pytest.param("10.0.0.1", (f"{CLIENT}, 10.9.9.9",), CLIENT, id="two proxies"),
        pytest.param("10.0.0.1", (CLIENT, "10.9.9.9"), CLIENT, id="a header each"),
        pytest.param("10.0.0.1", (f"1.2.3.4, {CLIENT}",), CLIENT, id="spoofed on the left"),
        pytest.param("10.0.0.1", ("1.2.3.4", CLIENT), CLIENT, id="spoofed in another header"),
        pytest.param("10.0.0.1", (f"10.1.1.1, {CLIENT}",), CLIENT, id="a spoofed proxy"),
        pytest.param("10.0.0.1", (f"{CLIENT},10.1.1.1,10.2.2.2",), CLIENT, id="no blanks"),
        pytest.param("10.0.0.1", (f"  {CLIENT} \t",), CLIENT, id="blanks"),
        pytest.param("10.0.0.1", (f"{CLIENT}:4431",), CLIENT, id="a port"),
        pytest.param("10.0.0.1", ("[2001:db8::7]:99",), "2001:db8::/64", id="a port of IPv6"),
        pytest.param("10.0.0.1", ("[2001:db8::7]",), "2001:db8::/64", id="brackets"),
        pytest.param("10.0.0.1", ("10.2.2.2",), "10.2.2.2", id="proxies all the way"),
        pytest.param("fd00::1", (CLIENT,), CLIENT, id="a proxy of IPv6"),
        pytest.param("::ffff:10.0.0.1", (CLIENT,), CLIENT, id="a mapped proxy"),
        pytest.param("10.0.0.1", (f"::ffff:{CLIENT}",), CLIENT, id="a mapped client"),
        pytest.param(f"::ffff:{CLIENT}", (), CLIENT, id="a mapped peer"),
    ],
)
def test_right_to_left(peer: str, forwarded: tuple[str, ...], client: str) -> None:
    """The client is the first address from the right that no trusted proxy has."""
    assert TRUSTED.client(peer, forwarded) == client


def test_so_many_hops_count() -> None:
    """Of what proxies wrote, the last 32 hops are looked at, however long the headers are."""
    far, near = ", ".join(["10.1.1.1"] * 31), ("1.2.3.4, " * 10_000 + CLIENT,)

    assert TRUSTED.client("10.0.0.1", (f"{CLIENT}, {far}",)) == CLIENT
    assert TRUSTED.client("10.0.0.1", (f"{CLIENT}, 10.2.2.2, {far}",)) == "10.2.2.2"
    assert TRUSTED.client("10.0.0.1", (f"{CLIENT}, 10.2.2.2", far)) == "10.2.2.2"
    assert TRUSTED.client("10.0.0.1", near) == CLIENT


def test_is_remembered_by_what_was_said() -> None:
    """Who came before is the same again; another word of the same peer is another client's."""
    proxies = Proxies([ip_network("10.0.0.0/8")])
    said = [("10.0.0.1", (f"1.2.3.{n}",)) for n in (4, 5, 4)] + [("9.9.9.9", ("1.2.3.4",))]

    assert [proxies.client(*words) for words in said] == [
        "1.2.3.4",
        "1.2.3.5",
        "1.2.3.4",
        "9.9.9.9",
    ]


def test_so_many_are_remembered() -> None:
    """However many come, and whatever they say, little is kept of it."""
    proxies = Proxies([ip_network("10.0.0.0/8")])
    for number in range(3000):
        proxies.client("10.0.0.1", (f"1.2.{number // 256}.{number % 256}",))
    known = len(proxies._known)

    proxies.client("10.0.0.1", ("x" * 300,))

    assert len(proxies._known) == known <= 1024


def test_unix_sockets() -> None:
    """A proxy on a Unix socket has no address: it is believed where the settings say so."""
    unix = Proxies(["unix", ip_network("10.0.0.0/8")])

    assert unix.client("", (f"1.2.3.4, {CLIENT}, 10.0.0.1",)) == CLIENT
    assert unix.client("", ()) == ""
    assert unix.client("", ("junk",)) == ""
    assert unix.client(CLIENT, ("1.2.3.4",)) == CLIENT
    assert unix.trusts("")
    assert not TRUSTED.trusts("")
    assert TRUSTED.client("", (CLIENT,)) == ""


@pytest.mark.parametrize(
    "hop",
    [
        "",
        "unknown",
        "_hidden",
        "256.1.1.1",
        "1.2.3",
        "<script>",
        "\x00",
        "1" * 5000,
    ],
)
def test_junk_ends_the_walk(hop: str) -> None:
    """A hop that is no address is not walked past: what stands left of it is anybody's word."""
    assert TRUSTED.client("10.0.0.1", (f"1.2.3.4, {hop}",)) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_network_of_ipv6_is_one_client(peer: str, client: str) -> None:
    """A client of IPv6 owns its /64: the addresses in it are one."""
    assert TRUSTED.client(peer, ()) == client


@pytest.mark.parametrize("peer", ["", "unix:", "testclient", "/run/app.sock"])
def test_peers_without_an_address(peer: str) -> None:
    """A peer without an address is nobody, and nobody's word counts."""
    assert TRUSTED.client(peer, (CLIENT,)) == ""
    assert not TRUSTED.trusts(peer)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("fd00::1", True),
        ("fe00::1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("0:0:0:0:0:ffff:0a00:0001", True),
    ],
)
def test_trust(address: str, trusted: bool) -> None:
    """A proxy is trusted by its network, however its address is spelt."""
    assert TRUSTED.trusts(address) is trusted


def test_a_network_of_mapped_addresses() -> None:
    """A proxy's network may be spelt as a mapped one too."""
    assert Proxies([ip_network("::ffff:10.0.0.0/104")]).trusts("::ffff:10.0.0.1")


@examples(max_examples=200, deadline=None)
@given(st.text(), st.lists(st.text() | st.ip_addresses().map(str), max_size=4))
def test_any_text(peer: str, forwarded: list[str]) -> None:
    """Whatever is sent, a client has a name, and a stranger's is its own."""
    name = TRUSTED.client(peer, tuple(forwarded))

    assert isinstance(name, str)
    if not TRUSTED.trusts(peer):
        assert name == TRUSTED.client(peer, ())
