"""Fixtures of the tests of data."""

import pytest

from helpers.outputs import HOSTILE


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    """Return a path in a folder, both with a name that breaks careless code."""
    return tmp_path / request.param / request.param
