"""Ports of this machine for servers that tests and benchmarks start."""

import socket


def free_port() -> int:
    """One that is free now. A server that looks for one by itself begins at the same number as all others of its kind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
