"""Faults in adding up the logs of several workers, present in every version of fairseq.

With ``--update-freq``, a worker whose last batch of an update is a dummy counts none of
its batches of that update, although their gradients are used: the sum of all gradients
is divided by too few examples, and the logged losses and counts lack these batches.

With ``--report-mcc`` and the like, the first validation ends in a ``TypeError``,
because the logs hold lists of predictions, which fairseq tries to add up.
"""

from collections.abc import Sequence
from typing import Any

import torch.distributed

from fairseq_scl.compat.wrapping import wrap


def apply() -> None:
    """Count all batches except dummies, and join lists."""
    from fairseq.trainer import Trainer

    wrap(Trainer, "train_step", _train_step)
    wrap(Trainer, "_aggregate_logging_outputs", _aggregate)


def _train_step(
    original: Any, trainer: Any, samples: Sequence[Any], *args: Any, **kwargs: Any
) -> Any:
    trainer._batches = sum(1 for sample in samples if sample)
    return original(trainer, samples, *args, **kwargs)


def _aggregate(
    original: Any,
    trainer: Any,
    logs: list[dict[str, Any]],
    size: Any,
    *others: Any,
    ignore: bool = False,
) -> Any:
    if ignore and len(logs) > 1 and trainer._batches:
        batches = logs[: trainer._batches]  # dummies come last
        if all("sample_size" in log for log in batches):
            logs, ignore = batches, False
            size = float(sum(log["sample_size"] for log in logs))
    lists = [{k: v for k, v in log.items() if isinstance(v, list)} for log in logs]
    sums = type(trainer.task).logging_outputs_can_be_summed(trainer.get_criterion())
    if not (sums and any(lists)):
        return original(trainer, logs, size, *others, ignore=ignore)
    rest = [{k: v for k, v in log.items() if k not in lists[0]} for log in logs]
    summed, sizes = original(trainer, rest, size, *others, ignore=ignore)
    joined: list[Any] = [None] * trainer.data_parallel_world_size
    group = trainer.data_parallel_process_group
    torch.distributed.all_gather_object(joined, [] if ignore else lists, group)
    return [*summed, *(log for found in joined for log in found)], sizes
