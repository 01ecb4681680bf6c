"""Test cases that need an objective beyond the paper."""

from importlib.util import find_spec

import pytest


def objective_case(name, *values):
    """A parametrized case that is skipped where the objective's folder was deleted."""
    missing = find_spec(f"fairseq_scl.objectives.{name}") is None
    skipped = pytest.mark.skipif(missing, reason=f"no fairseq_scl/objectives/{name}")
    return pytest.param(*values, marks=skipped, id=name)
