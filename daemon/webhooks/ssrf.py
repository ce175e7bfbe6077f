"""SSRF protection: a webhook URL from a message must not give access to the internal network."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

import aiohttp

from daemon.bucket_settings import allows
from daemon.config import Settings
from daemon.errors import WebhookNotAllowed
from daemon.schema.wording import clip

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class NotPublic(OSError):
    """The receiver's address is not on the public internet."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the receiver's address is not public")

    def __str__(self) -> str:
        return str(self.strerror)  # without the number


def is_public(host: str) -> bool:
    """Return whether an IP address is on the public internet.

    An IPv4 address embedded in an IPv6 address is checked as IPv4: `is_global` is true for NAT64 and 6to4 forms of
    private addresses.
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
    """Create the socket of a connection, only for a public address.

    The check is here, after name resolution, because only here is the checked address the one that is connected to: a
    name may resolve differently from one moment to the next.
    """
    family, kind, protocol, _, address = addr_info
    if not is_public(address[0]):
        raise NotPublic
    return socket.socket(family, kind, protocol)


def check_webhook_url(url: str, settings: Settings) -> str:
    """Return the URL if this deployment may call it. Raises WebhookNotAllowed, without the URL: it may contain a token."""
    if url == settings.webhook_url:
        return url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port validates it
    except ValueError:
        raise WebhookNotAllowed("webhook.url is not a URL") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.webhook_allow_http):
        raise WebhookNotAllowed("webhook.url must be https")
    if parts.username is not None or parts.password is not None:
        raise WebhookNotAllowed("webhook.url must not contain a user name or password; verify the signature instead")
    if host is None or not allows(settings.webhook_hosts, host):
        raise WebhookNotAllowed(f"webhook.url: this deployment is not allowed to call the host {clip(host)}")
    return url
