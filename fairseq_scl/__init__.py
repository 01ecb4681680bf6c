"""Supervised contrastive fine-tuning for fairseq (Gunel et al., 2021).

Give this folder to ``fairseq-train --user-dir``: importing it registers the criterion
and the task ``sentence_prediction_scl``, the model ``roberta_bert`` and the optimizer
``fused_adam`` with fairseq, and lets fairseq load its own checkpoints on today's
PyTorch. Where fairseq does not fit this Python, only :mod:`fairseq_scl.losses` works,
and ``fairseq-scl doctor`` says why.
"""

import os
import signal
import sys

__version__ = "0.1.0"


def _leave(*_: object) -> None:
    os.write(2, b"fairseq-scl: interrupted\n")
    os._exit(130)


# The command line begins after these imports, which take seconds and turn Ctrl-C into
# errors of their own.
_starts = os.path.basename(sys.argv[0]) in ("fairseq-scl", "-m")
_handler = signal.getsignal(signal.SIGINT)
if _starts and _handler is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)

from fairseq_scl.compat import patches, versions  # noqa: E402

if not (versions.problems() or versions.import_problems()):
    patches.patch_fairseq()

    from fairseq_scl import criterions, models, optim, tasks  # noqa: F401

if signal.getsignal(signal.SIGINT) is _leave:
    signal.signal(signal.SIGINT, _handler)
