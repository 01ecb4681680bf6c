"""Fault: where the file to start from is missing, fairseq uses random weights.

The same where ``--restore-file`` or ``--finetune-from-model`` is a folder. fairseq says
so in one line of its log. Present in every version of fairseq.
"""

import logging
import os
from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.patches.wrapping import wrap
from fairseq_scl.errors import InputError

logger = logging.getLogger(__name__)


def apply() -> None:
    """Refuse a ``--restore-file`` or ``--finetune-from-model`` that is not a file."""
    from fairseq import checkpoint_utils

    wrap(checkpoint_utils, "load_checkpoint", _load_checkpoint)


def _load_checkpoint(original: Any, cfg: Any, trainer: Any, **kwargs: Any) -> Any:
    from fairseq.file_io import PathManager

    suffix = trainer.checkpoint_suffix
    last = os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt")
    flag, path = "--restore-file", cfg.restore_file.replace(".pt", f"{suffix}.pt")
    if cfg.restore_file == "checkpoint_last.pt" and PathManager.exists(last):
        path = last
    elif cfg.restore_file == "checkpoint_last.pt":  # a new training
        flag, path = "--finetune-from-model", cfg.finetune_from_model
    if path is not None and not PathManager.isfile(path):
        what = "it is not a" if PathManager.exists(path) else "there is no such"
        with exit_on_input_error():
            raise InputError(f"{flag} is {path}: {what} file")
    over = flag == "--restore-file" and path != last and cfg.reset_dataloader
    if over and PathManager.exists(last):
        logger.warning(
            "starting over from %s: %s will be overwritten; to go on from it, give "
            "--finetune-from-model instead of --restore-file and --reset-*",
            *(path, last),
        )
    return original(cfg, trainer, **kwargs)
