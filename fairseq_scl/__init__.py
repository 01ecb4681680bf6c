"""Supervised contrastive fine-tuning for fairseq (Gunel et al., 2021).

Give this folder to ``fairseq-train --user-dir``: importing it registers the criterion
and the task ``sentence_prediction_scl``, the model ``roberta_bert`` and the optimizer
``fused_adam`` with fairseq, and lets fairseq load its own checkpoints on today's
PyTorch. Where fairseq does not fit this Python, only :mod:`fairseq_scl.losses` works,
and ``fairseq-scl doctor`` says why.
"""

from fairseq_scl.compat import patches, versions

__version__ = "0.1.0"

if not (versions.problems() or versions.import_problems()):
    patches.patch_fairseq()

    from fairseq_scl import criterions, models, optim, tasks  # noqa: F401
