"""Faults in loading the initial checkpoint.

If the file of ``--restore-file``, ``--continue-once`` or ``--finetune-from-model`` is
missing or a folder, fairseq uses random weights and only logs it in one line. Without
these options a classifier starts from random weights without a warning. Present in
every version of fairseq.

Several workers cannot restore a checkpoint on PyTorch 2.6 and later: the first worker
broadcasts it as a pickle, which the others refuse to load. Can be dropped with a
fairseq whose ``broadcast_object`` works there.
"""

import logging
import os
from typing import Any

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.compat.wrapping import wrap
from fairseq_scl.errors import InputError

LAST = "checkpoint_last.pt"
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")
logger = logging.getLogger(__name__)


def apply() -> None:
    """Refuse a path that is not a file; let each worker read it with the allow-list."""
    from fairseq import checkpoint_utils

    wrap(checkpoint_utils, "load_checkpoint", _load_checkpoint)


@exit_on_input_error()
def _load_checkpoint(original: Any, cfg: Any, trainer: Any, **kwargs: Any) -> Any:
    from fairseq.file_io import PathManager
    from fairseq.tasks.sentence_prediction import SentencePredictionTask

    others = [name for name in RESETS if getattr(cfg, name)]
    others += ["restore_file"] if cfg.restore_file != LAST else []
    if cfg.finetune_from_model is not None and others:
        raise InputError(
            f"--finetune-from-model is {cfg.finetune_from_model}: it cannot be given "
            f"together with --{others[-1].replace('_', '-')}"
        )
    suffix = trainer.checkpoint_suffix
    last = os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt")
    flag, path = "--restore-file", cfg.restore_file.replace(".pt", f"{suffix}.pt")
    if cfg.restore_file == LAST and PathManager.exists(last):
        path = last
    elif cfg.restore_file == LAST and cfg.continue_once is not None:
        flag, path = "--continue-once", cfg.continue_once
    elif cfg.restore_file == LAST:  # a new training
        flag, path = "--finetune-from-model", cfg.finetune_from_model
    if path is None and isinstance(trainer.task, SentencePredictionTask):
        logger.warning(
            "starting from random weights: there is no %s to resume from, and "
            "--finetune-from-model is not given",
            last,
        )
    if path is not None and not PathManager.isfile(path):
        what = "it is not a" if PathManager.exists(path) else "there is no such"
        raise InputError(f"{flag} is {path}: {what} file")
    over = flag == "--restore-file" and path != last and cfg.reset_dataloader
    if over and PathManager.exists(last):
        logger.warning(
            "starting over from %s: %s will be overwritten; to resume from it, use "
            "--finetune-from-model instead of --restore-file and --reset-*",
            *(path, last),
        )
    if trainer.data_parallel_world_size > 1:
        # fairseq looks for the file on each worker, so all of them can see it.
        trainer.cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
    return original(cfg, trainer, **kwargs)
