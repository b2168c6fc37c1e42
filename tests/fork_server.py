"""A process that has loaded the command and forks itself for each order to run it.

Loading takes most of the processor time of a short command.  What is forked goes on as
`python -m` would: a process of its own, with its own arguments, environment, folder and streams,
and with its own end.  The orders come from forked.py; nothing of the tests is loaded here.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import sys
from typing import Final, NamedTuple

import stigmem_replicator.cli.app  # noqa: F401 - what every command loads

ORDER_BYTES: Final = 1 << 18
DESCRIPTORS: Final = 4
"""Standard input, output and error, and the socket that the process is reported on."""


class Order(NamedTuple):
    """What to run as `python -m` would."""

    module: str
    arguments: list[str]
    environ: dict[str, str]
    folder: str
    new_session: bool


def serve(orders: socket.socket) -> Order:
    """Fork for each order; return in the process that is to run it, ready to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who report: nobody waits for them
    gc.freeze()
    while True:
        text, descriptors, _flags, _address = socket.recv_fds(orders, ORDER_BYTES, DESCRIPTORS)
        if not text:
            os._exit(0)
        if os.fork() == 0:
            orders.close()
            return _prepared(text, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _prepared(text: bytes, descriptors: list[int]) -> Order:
    *streams, reply = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command:
        for stream in streams:
            os.close(stream)
        _report(command, socket.socket(fileno=reply))
    os.close(reply)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    order = Order(*json.loads(text))
    if order.new_session:
        os.setsid()
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environ)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return order


def _report(command: int, reply: socket.socket) -> None:
    """Tell the process id and then the exit code, as `subprocess` has it, and end.

    The process id is taken until the other side has read of the end, or is no more itself.
    """
    try:
        reply.send(b"%d" % command)
    except OSError:  # whoever gave the order has given up: nobody else would end it
        os.kill(command, signal.SIGKILL)
        os._exit(1)
    ended = os.waitid(os.P_PID, command, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    reply.send(b"%d" % code)
    reply.recv(1)
    os._exit(0)


if __name__ == "__main__":
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = wanted.arguments
    runpy.run_module(wanted.module, run_name="__main__", alter_sys=True)
