"""End ``fairseq-train`` with one sentence on bad input."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fairseq_scl.errors import InputError


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Inside ``fairseq-train``, turn an InputError into one sentence and status 2.

    Use this as a context manager or decorator in code that fairseq calls, where nothing
    else would catch the error. If none of fairseq's commands is running (in a notebook
    or a test), the error is raised as usual.
    """
    try:
        yield
    except InputError as error:
        if not _called_by_a_command():
            raise
        sys.stderr.write(f"fairseq-scl: error: {error}\n")
        raise SystemExit(2) from error


def _called_by_a_command() -> bool:
    """Return whether code from ``fairseq_cli`` is on the call stack."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        names = frame.f_globals
        spec = names.get("__spec__")  # python -m fairseq_cli.train is __main__
        for name in (names.get("__name__"), getattr(spec, "name", None)):
            if str(name).startswith("fairseq_cli."):
                return True
        frame = frame.f_back
    return False
