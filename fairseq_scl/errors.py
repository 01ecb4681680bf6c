"""The exception for bad input that the user can fix."""


class InputError(ValueError):
    """Bad input from a user: a file, a flag or a value that cannot be used.

    The message is one sentence that names the file and line or the flag, the value
    found and what is allowed. ``fairseq-scl`` prints it without a traceback and exits
    with status 2; ``compat.input_errors.exit_on_input_error`` does the same inside
    ``fairseq-train``.
    """
