"""Fast commands for scripts and libraries that start several of them.

The real ones import torch and fairseq for seconds each time. These are small programs
that pass their arguments, environment and streams to a server, which has them imported
and runs the command in a fork. ``fast-python`` stands for ``python -m MODULE``.
"""

import gc
import importlib
import json
import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path

from fairseq_scl.cli import VERBS, main
from helpers.training import Running, run_command, start_fast

PROGRAMS = ("fairseq-scl", "fairseq-preprocess", "fairseq-train", "fast-python")

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    told = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [b"%9d" % len(told)], [0, 1, 2])
    server.sendall(told)
    sys.exit(int(server.recv(9) or 1))
"""


def install_fast_commands(folder: Path) -> Running:
    """Write the programs into a folder and start their server."""
    address = folder / "socket"
    (folder / "client.py").write_text(CLIENT)
    for name in PROGRAMS:
        words = f'"{sys.executable}" -IS "{folder}/client.py" "{address}" {name} "$@"'
        (folder / name).write_text(f"#!/bin/sh\nexec {words}\n")
        (folder / name).chmod(0o755)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen()
    return start_fast(serve, listening)


def serve(listening: socket.socket) -> None:
    """Answer one command after another until this process is terminated."""
    for verb in VERBS:
        importlib.import_module(f"fairseq_scl.cli.{verb.replace('-', '_')}")
    importlib.import_module("fairseq_scl.report.html")  # with matplotlib
    gc.freeze()  # each run ends with a collection
    fork = multiprocessing.get_context("fork")
    while True:
        connection, _ = listening.accept()
        with connection:
            # Ends with its data loader workers, which have the caller's streams open.
            child = fork.Process(target=_answer, args=(connection,))
            child.start()
            child.join()
            connection.sendall(str(child.exitcode).encode())


def _answer(connection: socket.socket) -> None:
    size, streams, _, _ = socket.recv_fds(connection, 9, 3)
    with connection.makefile("rb") as file:
        (name, *words), folder, environment = json.loads(file.read(int(size)))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, range(3), "rww")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # It reads HF_ENDPOINT and others when it is imported, which a test module has done.
    for module in [m for m in sys.modules if m.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[module]
    sys.exit(_call(name, words))


def _call(name: str, words: list[str]) -> int:
    if name == "fairseq-scl":
        return main(words)
    if name == "fast-python":
        module, *words = words[words.index("-m") + 1 :]
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        run_command(name.replace("fairseq-", "fairseq_cli."), words)
    return 0
