"""Ports for servers and workers that tests start."""

from __future__ import annotations

import socket


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])
