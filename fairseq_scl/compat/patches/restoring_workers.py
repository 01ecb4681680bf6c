"""Fault: several workers cannot restore a checkpoint on PyTorch 2.6 and later.

The first worker broadcasts what it read as a pickle of its own, which the others refuse
to load. May go with a fairseq whose ``broadcast_object`` works there.
"""

from typing import Any

from fairseq_scl.compat.patches.wrapping import wrap


def apply() -> None:
    """Have each worker read the file itself, with the allow-list."""
    from fairseq.trainer import Trainer

    wrap(Trainer, "load_checkpoint", _load_checkpoint)


def _load_checkpoint(original: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
    if trainer.data_parallel_world_size > 1:
        # All workers can see the file: fairseq looks for it on each.
        trainer.cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
    return original(trainer, *args, **kwargs)
