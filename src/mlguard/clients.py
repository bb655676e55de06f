"""Which address does a request come from?"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

_REMEMBERED = 1024  # peers
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
        self._names: dict[str, str] = {}

    def trusts(self, address: str) -> bool:
        """Say whether this address belongs to a trusted proxy."""
        if not address:
            return self._unix
        return bool(self._trusted) and self._within(_parse(address))

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Find the client: X-Forwarded-For walked right to left through trusted proxies.

        Returns:
            The address, an IPv6 one as its /64 network; "" where the server does not say.
        """
        if not self.trusts(peer):
            return self._direct(peer)
        address = _parse(peer)
        hops = [hop for header in forwarded for hop in header.split(",")]
        while hops and (address is None or self._within(address)):
            before = _parse(hops.pop().strip())
            if before is None:
                break
            address = before
        return _name(address)

    def _direct(self, peer: str) -> str:
        """Name a peer that speaks for itself; most come again and again."""
        name = self._names.get(peer)
        if name is None:
            if len(self._names) >= _REMEMBERED:
                self._names.clear()
            name = self._names[peer] = _name(_parse(peer))
        return name

    def _within(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _parse(text: str) -> Address | None:
    """Read an address; some proxies write its port too."""
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
