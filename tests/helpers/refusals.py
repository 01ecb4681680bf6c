"""Bad input ends with one sentence, which tests match by its flags and values."""

from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess

import pytest

from fairseq_scl.errors import InputError


@contextmanager
def refused(*words: object) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Require that the block is refused with one sentence that has these words."""
    with pytest.raises(InputError) as caught:
        yield caught
    text = str(caught.value)
    assert all(str(word) in text for word in words), text
    assert "\n" not in text
    assert len(text) < 600


def assert_command_refused(done: CompletedProcess[str], *words: object) -> None:
    """Check that a command ended with status 2 and one sentence that has the words."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    (error,) = [line for line in lines if line.startswith("fairseq-scl: error: ")]
    assert all(str(word) in error for word in words), error
