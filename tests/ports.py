"""Ports of this machine for servers that tests and benchmarks start."""

import socket


def free_port() -> int:
    """One that no other server here will choose: of two that start together, both may find the first one free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
