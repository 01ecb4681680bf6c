"""Any module of the core can be the first import of a program."""

import pytest

from helpers.fresh import run_fresh


@pytest.mark.parametrize("module", ["large_batch.gather", "models.roberta_bert"])
def test_a_module_is_imported_before_fairseq(module):
    """It registers the package, which imports the module in turn."""
    done = run_fresh(f"import fairseq_scl.{module}")
    assert done.returncode == 0, done.stderr
