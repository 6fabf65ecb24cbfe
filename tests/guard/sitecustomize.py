"""Loaded by every Python process that the tests start: nothing may connect beyond this machine.

An audit hook cannot be removed and sees every connect of Python's sockets, whoever makes it.
"""

import ipaddress
import sys


def _refuse_to_leave_loopback(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if not isinstance(address, tuple):
        return  # a Unix socket
    host = str(address[0])
    if host != "localhost" and not ipaddress.ip_address(host.split("%")[0]).is_loopback:
        raise PermissionError(f"the tests' network guard: a connection to {host} would leave this machine")


sys.addaudithook(_refuse_to_leave_loopback)
