"""Fault: where ``--restore-file`` is missing, fairseq trains from random weights.

It says so in one line of its log. Present in every version of fairseq.
"""

from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.patches.wrapping import wrap
from fairseq_scl.errors import InputError


def apply() -> None:
    """Refuse a ``--restore-file`` that is missing."""
    from fairseq import checkpoint_utils

    wrap(checkpoint_utils, "load_checkpoint", _load_checkpoint)


def _load_checkpoint(original: Any, cfg: Any, trainer: Any, **kwargs: Any) -> Any:
    from fairseq.file_io import PathManager

    path = cfg.restore_file
    with exit_on_input_error():
        if path != "checkpoint_last.pt" and not (
            trainer.checkpoint_suffix or PathManager.exists(path)
        ):
            raise InputError(f"--restore-file is {path}: there is no such file")
    return original(cfg, trainer, **kwargs)
