"""Looks whether a port is free before anything is started on it."""

from __future__ import annotations

import errno
import socket

from ..core.errors import ConfigurationError


def check_free(host: str, port: int, option: str, what: str) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        ConfigurationError: it is no port, in use or not allowed; the message names ``option``.
    """
    if not 0 < port < 65_536:
        raise ConfigurationError(f"{option} is {port}: a port is a number from 1 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a port that is only waiting for old connections to end is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise ConfigurationError(
                f"Port {port} of {host}, wanted for {what}, {why}. Stop what uses it, or choose"
                f" another with {option}."
            ) from None
