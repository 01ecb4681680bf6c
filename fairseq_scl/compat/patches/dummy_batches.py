"""Fault: after a validation, a worker may train on a validation batch.

A worker that runs out of batches computes a dummy batch with its gradient multiplied by
0, so that all workers take the same number of steps. fairseq keeps a single dummy batch
and replaces it at each validation. After a validation in the middle of an epoch, it
lacks the inputs that the task adds to training examples. Present in every version of
fairseq.
"""

from typing import Any

from fairseq_scl.compat.wrapping import wrap


def apply() -> None:
    """Keep separate dummy batches for training and validation."""
    from fairseq.trainer import Trainer

    wrap(Trainer, "get_valid_iterator", _with_validation_dummy)
    wrap(Trainer, "valid_step", _with_validation_dummy)


def _with_validation_dummy(
    original: Any, trainer: Any, *args: Any, **kwargs: Any
) -> Any:
    training = trainer._dummy_batch
    trainer._dummy_batch = getattr(trainer, "_validation_dummy_batch", training)
    try:
        return original(trainer, *args, **kwargs)
    finally:
        trainer._validation_dummy_batch = trainer._dummy_batch
        trainer._dummy_batch = training
