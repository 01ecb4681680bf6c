"""What a command says on stderr: notes, warnings, and the error that ends it."""

import io
import os
import sys
from contextlib import suppress

from fairseq_scl.errors import InputError

REPORT = (
    "this is a bug: please report it to the issue tracker of fairseq-scl, with the "
    "command, the lines above and what 'fairseq-scl doctor' prints"
)
OUT_OF_MEMORY = (
    "OutOfMemoryError"  # PyTorch's; by name, because torch may not be loaded
)


def open_standard_streams() -> None:
    """Make stdout and stderr UTF-8, and open the streams that the caller closed.

    Otherwise, the next file opened would take the place of a closed stream. Using the
    replacement fails, as with ``cat <&-``; output to stderr is lost.
    """
    for number, (name, mode) in enumerate(
        (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    ):
        try:
            os.fstat(number)
        except OSError:
            wrong = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)[number]
            os.open(os.devnull, wrong)  # takes the lowest free number
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
    """Discard output that stdout cannot take, since Python flushes it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str, kind: str = "note") -> None:
    """Print a note, or something of another kind such as a warning, to stderr."""
    print(f"fairseq-scl: {kind}: {text}", file=sys.stderr, flush=True)


def fail(message: str, status: int) -> int:
    """Print a line to stderr, if that is possible, and return the status."""
    with suppress(OSError):
        line = " ".join(message.splitlines())  # messages of libraries may have several
        print(f"fairseq-scl: {line}", file=sys.stderr, flush=True)
    return status


def sentence_of(error: Exception) -> str | None:
    """Return a one-sentence message for a user's error, ``None`` for a bug."""
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
        return str(error)  # from pathlib, before Python 3.13
    if isinstance(error, UnicodeDecodeError):
        return f"a text file is not valid UTF-8: {error.reason}, byte {error.start + 1}"
    if isinstance(error, UnicodeEncodeError):
        bad = error.object[error.start : error.end]
        return f"a text or name cannot be written as {error.encoding}: {bad!a}"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("allocate memory" in str(error) or type(error).__name__ == OUT_OF_MEMORY)
    ):
        return (
            "out of memory: lower the size of a batch or buffer, or use a machine with "
            "more memory"
        )
    return None
