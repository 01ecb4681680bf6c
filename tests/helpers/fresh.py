"""Programs that import fairseq themselves, in forks of a process that has the rest."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SERVER = """
import gc, json, multiprocessing, os, sys
gc.disable()
import hydra.experimental, omegaconf, sacrebleu, torch.onnx
gc.freeze()
gc.enable()

def run(code, arguments, folder, environment, output):
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})

for line in sys.stdin:
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=run, args=json.loads(line))
    process.start()
    process.join()
    print(process.exitcode, flush=True)
"""


@functools.cache
def _server() -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE  # the server ends with this process
    command = [sys.executable, "-c", SERVER]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def run_fresh(
    code: str,
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -c CODE ARGUMENTS`` without waiting for the import of PyTorch.

    So are other packages that fairseq imports. fairseq itself and this package are not
    imported yet, unlike in ``start_fast``.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as output:
        words = [str(argument) for argument in arguments]
        call = [code, words, str(cwd or Path.cwd()), dict(env), output]
        print(json.dumps(call), file=server.stdin)
        server.stdin.flush()
        status = int(server.stdout.readline())
        out, err = (Path(output, name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess([], status, out, err)
