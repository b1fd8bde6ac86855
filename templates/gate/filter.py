"""Runs in a sandbox before all else: puts a filter on what sockets can be opened, and becomes the command.

    python3 -I -S filter.py SOCKET COMMAND…

Sockets that lead past the sandbox's network are refused by the gate, which is handed the listening end of
the filter and writes each attempt down: see seccomp_unotify(2). No program that comes after can take the
filter off. Standard library only, from Python 3.8 on.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import NamedTuple

_NOT_STARTED = 125  # as `docker run` ends when it cannot start a command

# linux/bpf_common.h: load a word of the call's data, mask it, compare it, end.
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
# struct seccomp_data; an argument is an int, which is the low half of its place on little-endian machines.
_NUMBER, _ABI, _FIRST, _SECOND = 0, 4, 16, 24
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_REFUSE = 0x00050000 | errno.EPERM
_NO_NEW_PRIVILEGES, _SET_FILTER, _NEW_LISTENER = 38, 1, 8
_AF_NETLINK, _TYPE_MASK, _SOCK_PACKET = 16, 0xF, 10
_CALL_SOCKET, _CALL_PAIR = 1, 8
_X32_OFF = 0xBFFFFFFF


class _Abi(NamedTuple):
    """Numbers of system calls; `socketcall` is the one that keeps its arguments in memory, 0 for none."""

    audit: int
    socket: int
    pair: int
    io_uring: int
    socketcall: int = 0


_X86_64 = _Abi(0xC000003E, 41, 53, 425)
_I386 = _Abi(0x40000003, 359, 360, 425, 102)
_AARCH64 = _Abi(0xC00000B7, 198, 199, 425)
_ARM = _Abi(0x40000028, 281, 288, 425)
# The number of seccomp(2) for a program of 64 bits, and what programs of that machine can call.
_BITS = 64
_MACHINES = {"x86_64": (317, (_X86_64, _I386)), "aarch64": (277, (_AARCH64, _ARM))}


def program(abis: tuple[_Abi, ...], refusal: int) -> bytes:
    """Write the filter for seccomp(2); `refusal` is what sockets that lead past the network come to.

    Those of families that such a network does not hold lead past it (vsock reaches a virtual machine's
    host), and raw ones of those that it does. io_uring makes sockets that no filter sees: it is not there.
    """
    lines = _line(_LOAD, _ABI)
    for abi in abis:
        lines += _if(abi.audit, _calls(abi, _end(refusal)))
    return lines + _end(_REFUSE)


def _calls(abi: _Abi, refuse: bytes) -> bytes:
    lines = _line(_LOAD, _NUMBER)
    if abi is _X86_64:
        lines += _line(_AND, _X32_OFF)  # x32 has the same calls
    lines += _if(abi.socket, _check(refuse)) + _if(abi.pair, _check(refuse))
    lines += _if(abi.io_uring, _end(_REFUSE))
    if abi.socketcall:
        hidden = _line(_LOAD, _FIRST) + _if(_CALL_SOCKET, refuse) + _if(_CALL_PAIR, refuse)
        lines += _if(abi.socketcall, hidden + _end(_ALLOW))
    return lines + _end(_ALLOW)


def _check(refuse: bytes) -> bytes:
    """Look at the family and the type of a socket."""
    allow = _end(_ALLOW)
    kind = _line(_LOAD, _SECOND) + _line(_AND, _TYPE_MASK)
    kind += _if(socket.SOCK_RAW, refuse) + _if(_SOCK_PACKET, refuse) + allow
    lines = _line(_LOAD, _FIRST) + _if(socket.AF_UNIX, allow) + _if(_AF_NETLINK, allow)
    return lines + _if(socket.AF_INET, kind) + _if(socket.AF_INET6, kind) + refuse


def _if(value: int, then: bytes) -> bytes:
    """Go on with `then`, which ends, where the word is this value."""
    return _line(_EQUAL, value, len(then) // 8) + then


def _end(value: int) -> bytes:
    return _line(_RETURN, value)


def _line(code: int, value: int, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, 0, otherwise, value)


def install() -> tuple[int, str]:
    """Put the filter on this process for good. Gives the listening end, or -1 and why there is none.

    Where the kernel gives none, the filter refuses by itself.
    """
    machine, bits = os.uname().machine, sys.maxsize.bit_length() + 1
    if machine not in _MACHINES or bits != _BITS:
        return -1, f"there is no filter for programs of {bits} bits on {machine}"
    try:
        import ctypes
    except ImportError:
        return -1, "the image's Python has no ctypes"
    number, abis = _MACHINES[machine]
    libc = ctypes.CDLL(None, use_errno=True)

    class Filter(ctypes.Structure):
        """struct sock_fprog."""

        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    def put(refusal: int, flags: int) -> int:
        lines = program(abis, refusal)
        made = ctypes.byref(Filter(len(lines) // 8, lines))
        return int(
            libc.syscall(ctypes.c_long(number), ctypes.c_long(_SET_FILTER), ctypes.c_long(flags), made)
        )

    libc.prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    listener = put(_NOTIFY, _NEW_LISTENER)
    if listener >= 0:
        return listener, ""
    reason = f"the kernel does not take a filter: {os.strerror(ctypes.get_errno())}"
    put(_REFUSE, 0)
    return -1, reason


def main(place: str, command: list[str]) -> None:
    """Give the gate the listening end, or the reason why there is none, and wait until it has it."""
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect(place)
        listener, reason = install()
        if reason:
            gate.sendall(reason.encode())
        else:
            end = struct.pack("i", listener)
            gate.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, end)])
        if not gate.recv(1):
            raise ConnectionError("the gate does not take the filter")
    os.execvp(command[0], command)  # noqa: S606 - to become it; nothing that is open stays so


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except OSError as error:
        print(f"the command is not started: {error}", file=sys.stderr)
        sys.exit(_NOT_STARTED)
