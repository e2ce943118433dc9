"""Names of deployments, sites and hosts."""

from __future__ import annotations

import ipaddress
import re

from fedcore.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_LONGEST_HOST = 253


def require_name(name: str, what: str) -> str:
    """Raises InputError where it cannot be the name of a certificate, of a folder and of a site in a manifest."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{what} must have 1 to 64 letters, digits, - and _, and begin with a letter or a digit, got {name!r}"
        )
    return name


def require_host(host: str) -> str:
    """Raises InputError where it is no host name and no IP address."""
    if host.count(":") > 1 or host.replace(".", "").isdigit():
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
    elif len(host) <= _LONGEST_HOST and all(_LABEL.fullmatch(label) for label in host.lower().split(".")):
        return host.lower()
    raise InputError(
        f"the host must be the name by which hospitals reach the server, such as fl.example.org, got {host!r}"
    )


def require_port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise InputError(f"a port must lie in 1 to 65535, got {port}")
    return port
