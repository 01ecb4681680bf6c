"""Any module of the core can be the first import of a program."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["large_batch.gather", "models.roberta_bert"])
def test_a_module_is_imported_before_fairseq(module):
    """It registers the package, which imports the module in turn."""
    code = f"import fairseq_scl.{module}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
