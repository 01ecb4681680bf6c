"""Bad input ends with one sentence, which tests match by its flags and values."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fairseq_scl.errors import InputError


@contextmanager
def refused(*words: object) -> Iterator[None]:
    """Require that the block is refused with one sentence that has these words."""
    with pytest.raises(InputError) as caught:
        yield
    text = str(caught.value)
    assert all(str(word) in text for word in words), text
    assert "\n" not in text
    assert len(text) < 600
