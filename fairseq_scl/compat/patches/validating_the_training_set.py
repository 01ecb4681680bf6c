"""Fault: with ``--valid-subset valid,train`` validations use up the training epochs.

fairseq keeps one iterator per dataset, so validating the training set advances the
epochs of training. Already the validation before training skips the first epoch; with
``--max-epoch 1`` nothing is trained. Present in every version of fairseq.
"""

from typing import Any

from fairseq_scl.compat.wrapping import wrap


def apply() -> None:
    """Validate the training set with an iterator of its own."""
    from fairseq.trainer import Trainer

    wrap(Trainer, "get_valid_iterator", _with_its_own)


def _with_its_own(original: Any, trainer: Any, subset: str, **kwargs: Any) -> Any:
    if subset == trainer.cfg.dataset.train_subset:
        kwargs["disable_iterator_cache"] = True
    return original(trainer, subset, **kwargs)
