"""Which address does a request come from?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Literal

_REMEMBERED = 1024  # clients, each by its peer and what that said
_WORTH_REMEMBERING = 256  # characters that a proxy writes at most, if it does not pass on junk
_MOST_HOPS = 32
_LONGEST = 64  # characters of an address, its zone and port included
_MAPPED = 96  # bits before an IPv4 address in an IPv6 one (RFC 4291 section 2.5.5.2)

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Proxies:
    """The proxies that are believed about whom they speak for.

    Args:
        trusted: Their networks, or "unix" for who has no address, as a Unix socket gives none;
            nobody is trusted by default.
    """

    def __init__(self, trusted: Sequence[Network | Literal["unix"]] = ()) -> None:
        self._trusted = tuple(_unmapped(n) for n in trusted if n != "unix")
        self._unix = "unix" in trusted
        self._known: dict[tuple[str, tuple[str, ...]], str] = {}

    def trusts(self, address: str) -> bool:
        """Say whether this address belongs to a trusted proxy."""
        if not address:
            return self._unix
        return bool(self._trusted) and self._within(_parse(address))

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Find the client: X-Forwarded-For walked right to left through trusted proxies.

        Most come again and again, in the same words.

        Args:
            peer: The address that opened the connection.
            forwarded: Each header; of all, the last 32 hops count.

        Returns:
            The address, an IPv6 one as its /64 network; "" where the server does not say.
        """
        said = (peer, tuple(forwarded))
        name = self._known.get(said)
        if name is None:
            name = _name(self._walked(peer, forwarded) if self.trusts(peer) else _parse(peer))
            if sum(map(len, forwarded)) <= _WORTH_REMEMBERING:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[said] = name
        return name

    def _walked(self, peer: str, forwarded: Sequence[str]) -> Address | None:
        address = _parse(peer)
        for hop in islice(_hops(forwarded), _MOST_HOPS):
            if address is not None and not self._within(address):
                break
            before = _parse(hop.strip())
            if before is None:
                break
            address = before
        return address

    def _within(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _hops(forwarded: Sequence[str]) -> Iterator[str]:
    """List what proxies wrote, the last first, without a look at more than may count."""
    for header in reversed(forwarded):
        yield from reversed(header.rsplit(",", _MOST_HOPS))


def _parse(text: str) -> Address | None:
    """Read an address; some proxies write its port too."""
    if len(text) > _LONGEST:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _unmapped(network: Network) -> Network:
    """Spell a network of IPv4-mapped addresses as the IPv4 network that it is."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return ip_network((mapped, network.prefixlen - _MAPPED))


def _name(address: Address | None) -> str:
    if isinstance(address, IPv6Address):
        return str(ip_network((address.packed[:8] + bytes(8), 64)))
    return "" if address is None else str(address)
