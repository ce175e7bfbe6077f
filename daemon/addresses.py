"""Which addresses a webhook may reach: a URL from a message must not become a way into the network around us."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import aiohttp

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class NotPublic(OSError):
    """A receiver resolved to an address that is not on the public internet."""


def is_public(host: str) -> bool:
    """Whether an IP address is on the public internet.

    An IPv4 address that is wrapped in an IPv6 one counts as what it is: `is_global` calls NAT64 and 6to4 wrappings of
    private addresses global.
    """
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFFFFFF)
        elif wrapped := address.ipv4_mapped or address.sixtofour:
            address = wrapped
        elif address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast


def public_socket(addr_info: aiohttp.AddrInfoType) -> socket.socket:
    """The socket that a connection starts with, for a public address alone.

    The check sits here, after name resolution and for literal addresses alike, because only here the address checked
    is the address connected to: a name may resolve differently from one moment to the next.
    """
    family, kind, protocol, _, address = addr_info
    if not is_public(address[0]):
        raise NotPublic(errno.EACCES, "the receiver's address is not public")
    return socket.socket(family, kind, protocol)
