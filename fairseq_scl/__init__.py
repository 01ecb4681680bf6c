"""Supervised contrastive fine-tuning for fairseq (Gunel et al., 2021).

``from fairseq_scl import Classifier`` labels texts with a trained model, see
:class:`fairseq_scl.inference.classifier.Classifier`.

Give this folder to ``fairseq-train --user-dir``: importing it registers the criterion
and the task ``sentence_prediction_scl``, the model ``roberta_bert`` and the optimizer
``fused_adam`` with fairseq, and lets fairseq load its own checkpoints on today's
PyTorch. Without fairseq, the import is cheap and registration waits until something
imports fairseq, so that ``fairseq-scl --help`` answers at once. Where fairseq does not
fit this Python, only :mod:`fairseq_scl.losses` works, and ``fairseq-scl doctor`` says
why.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fairseq_scl.compat import versions

if TYPE_CHECKING:
    from fairseq_scl.inference.classifier import Classifier

__version__ = "0.1.0"
__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    """Import the classifier on first use, since it needs PyTorch and fairseq."""
    if name != "Classifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairseq_scl.inference.classifier import Classifier

    return Classifier


def _register() -> None:
    from fairseq_scl.compat import patches

    patches.patch_fairseq()

    from fairseq_scl import criterions, models, objectives, optim, tasks  # noqa: F401


class _LoadThenRegister(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        from fairseq_scl.compat.importing import importing_fairseq

        with importing_fairseq():
            super().exec_module(module)
        _register()


class _WhenImported(MetaPathFinder):
    """Find fairseq as Python does, and have its import followed by registration."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "fairseq":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("fairseq")
        if spec is not None and spec.origin is not None:
            spec.loader = _LoadThenRegister(spec.name, spec.origin)
        return spec


if not versions.problems():
    if "fairseq" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _WhenImported())
