"""A fast ``fairseq-scl`` for shell scripts, which call it several times.

The real command imports torch and fairseq for seconds each time. This one is a small
program that passes its arguments, environment and streams to a server, which has them
imported and calls ``main`` in a fork.
"""

import importlib
import json
import os
import socket
import sys
from pathlib import Path

from fairseq_scl.cli import VERBS, main
from helpers.training import Running, start_fast

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    told = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [b"%9d" % len(told)], [0, 1, 2])
    server.sendall(told)
    sys.exit(int(server.recv(9) or 1))
"""


def install_fast_command(folder: Path) -> Running:
    """Write ``fairseq-scl`` into a folder and start its server."""
    address = folder / "socket"
    (folder / "client.py").write_text(CLIENT)
    words = f'"{sys.executable}" -IS "{folder}/client.py" "{address}" "$@"'
    (folder / "fairseq-scl").write_text(f"#!/bin/sh\nexec {words}\n")
    (folder / "fairseq-scl").chmod(0o755)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen()
    return start_fast(serve, listening)


def serve(listening: socket.socket) -> None:
    """Answer one command after another until this process is terminated."""
    for verb in VERBS:
        importlib.import_module(f"fairseq_scl.cli.{verb.replace('-', '_')}")
    importlib.import_module("fairseq_scl.report.html")  # with matplotlib
    while True:
        connection, _ = listening.accept()
        with connection:
            child = os.fork()
            if child == 0:
                os._exit(_answer(connection))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            connection.sendall(str(status).encode())


def _answer(connection: socket.socket) -> int:
    size, streams, _, _ = socket.recv_fds(connection, 9, 3)
    with connection.makefile("rb") as file:
        words, folder, environment = json.loads(file.read(int(size)))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, range(3), "rww")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        return main(words)
    except SystemExit as ended:  # argparse
        return int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
