"""How a command ends: with its status, or with one sentence about what went wrong."""

import io
import os
import sys
from contextlib import suppress

from fairseq_scl.errors import InputError

REPORT = (
    "this is a bug: please report it to the issue tracker of fairseq-scl, with the "
    "command, the lines above and what 'fairseq-scl doctor' prints"
)
OUT_OF_MEMORY = "OutOfMemoryError"  # PyTorch's, known by name: torch may not be loaded


def open_standard_streams() -> None:
    """Make stdout and stderr UTF-8, and open those streams that the caller closed.

    The next file that is opened would become a stream that was closed. In its place
    stands one whose use fails, as with ``cat <&-``; what goes to stderr is lost.
    """
    for number, (name, mode) in enumerate(
        (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    ):
        try:
            os.fstat(number)
        except OSError:
            wrong = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)[number]
            os.open(os.devnull, wrong)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for stream, errors in (
        (sys.stdout, "surrogateescape"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def discard_output() -> None:
    """Let what stdout cannot take go nowhere: Python flushes it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, status: int) -> int:
    """Print a line to stderr, if it is still there, and return the status."""
    with suppress(OSError):
        line = " ".join(message.splitlines())  # those of libraries have several
        print(f"fairseq-scl: {line}", file=sys.stderr, flush=True)
    return status


def sentence_of(error: Exception) -> str | None:
    """Return one sentence about an error that users can cause, ``None`` for a bug.

    Args:
        error: what a verb raised.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        names = [
            os.fsdecode(name)
            for name in (error.filename, error.filename2)
            if isinstance(name, str | bytes | os.PathLike)
        ]
        where = " -> ".join(names) or "standard input, standard output or a file"
        return f"cannot use {where}: {reason}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return str(error)  # of pathlib, before Python 3.13
    if isinstance(error, UnicodeDecodeError):
        return (
            f"a file that should be text in UTF-8 is not: {error.reason}, "
            f"byte {error.start + 1}"
        )
    if isinstance(error, UnicodeEncodeError):
        bad = error.object[error.start : error.end]
        return f"a text or name cannot be written as {error.encoding}: {bad!a}"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("allocate memory" in str(error) or type(error).__name__ == OUT_OF_MEMORY)
    ):
        return (
            "not enough memory: give the command less at a time, such as a smaller "
            "batch, or use a machine that has more"
        )
    return None
