"""Strictly local: no socket of the server, or of its engine, touches anything but this machine."""

from __future__ import annotations

import ipaddress
import socket

import httpx
import psutil

from tests.live import LiveServer

CHAT = "/v1/chat/completions"
HELLO = {"model": "gemma", "messages": [{"role": "user", "content": "Hello"}]}


def addresses(pid: int) -> set[str]:
    """Return both ends' addresses of each internet socket that *pid* holds."""
    sockets = psutil.Process(pid).net_connections("inet")
    return {end.ip for each in sockets for end in (each.laddr, each.raddr) if end}


def strangers(pid: int) -> set[str]:
    """Return those of them that are not this machine's alone."""
    return {found for found in addresses(pid) if not ipaddress.ip_address(found).is_loopback}


def test_no_socket_leaves_the_machine(client: httpx.Client, server: LiveServer) -> None:
    """After loading, warm-up and an answer the engine has none, and the API process only loopback."""
    assert client.post(CHAT, json=HELLO).status_code == 200

    assert addresses(server.engine_pid()) == set()
    assert addresses(server.process.pid) != set()
    assert strangers(server.process.pid) == set()


def test_a_socket_that_does_would_be_seen() -> None:
    """The check can fail: a process that listens on every address is caught."""
    with socket.create_server(("0.0.0.0", 0)):
        assert strangers(psutil.Process().pid) == {"0.0.0.0"}
