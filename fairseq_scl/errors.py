"""The exception for bad input that the user can fix, and lists in its messages."""

from collections.abc import Iterable

NAMED_AT_MOST = 5


class InputError(ValueError):
    """Bad input from a user: a file, a flag or a value that cannot be used.

    The message is one sentence that names the file and line or the flag, the value
    found and what is allowed. ``fairseq-scl`` prints it without a traceback and exits
    with status 2; ``compat.input_errors.exit_on_input_error`` does the same inside
    ``fairseq-train``.
    """


def first_few(texts: Iterable[str], separator: str = ", ") -> str:
    """Join the first five of many texts for a message, and count the others."""
    found = list(texts)
    if more := len(found[NAMED_AT_MOST:]):
        found[NAMED_AT_MOST:] = [f"and {more} more"]
    return separator.join(found)
