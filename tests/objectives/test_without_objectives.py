r"""Deleting the folders of ``fairseq_scl/objectives`` leaves the rest as it was.

To see it with the whole suite, in a copy of the repository::

    rm -r fairseq_scl/objectives/acl tests/objectives/test_acl*.py tests/helpers/acl.py
    rm fairseq_scl/conf/compare.yaml tests/experiments/test_loss_grid.py
    python -m pytest -k "not ACL-Embed and not compare_goes and not compare- \
      and not keeps_noise and not objective_reads and not experiments.md"

``conf/compare.yaml`` is the table that has ACL in it, and docs/experiments.md names it.
"""

import shutil

from helpers import ROOT
from helpers.fresh import run_fresh

SCRIPT = """
import importlib, pkgutil, sys
import fairseq_scl
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import MODEL_REGISTRY

for module in pkgutil.walk_packages(fairseq_scl.__path__, "fairseq_scl."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
ours = {name for name, cls in CRITERION_REGISTRY.items() if "scl" in cls.__module__}
print(fairseq_scl.__file__, *sorted(ours), "roberta_multi_exit" in MODEL_REGISTRY)
"""


def test_every_module_is_imported_without_the_objectives(tmp_path):
    package = tmp_path / "fairseq_scl"
    shutil.copytree(ROOT / "fairseq_scl", package)
    for folder in (package / "objectives").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    done = run_fresh(SCRIPT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()[-1].split()
    assert found == [str(package / "__init__.py"), "sentence_prediction_scl", "False"]
