"""A fairseq checkpoint of plain values and tensors only."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def plain_checkpoint(
    model: Mapping[str, Any], task: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return a checkpoint as fairseq saves it, without optimizer state and meters.

    The settings of model and task include ``_name`` and are plain values, so that
    ``torch.load(weights_only=True)`` reads it without an allow-list.
    """
    history: dict[str, Any] = {
        "criterion_name": None,
        "optimizer_name": None,
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    iterator = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    return {
        "args": None,
        "cfg": {
            "model": dict(model),
            "task": dict(task),
            "criterion": None,
            # Otherwise the hub interface would download GPT-2's BPE, which may not fit.
            "bpe": {"_name": None},
        },
        "model": weights,
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": iterator},
    }
