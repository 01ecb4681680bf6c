"""Contrast across workers: a differentiable gather."""

from typing import Any

import torch
import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_scl.criterions.protocol import IGNORED
from fairseq_scl.losses.shared import at_least_float32


def data_parallel_group() -> Any:
    """Return the process group of the workers that share a step; ``None`` if alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = distributed_utils.get_data_parallel_group()
    return group if dist.get_world_size(group) > 1 else None


def contrastive_batch(
    features: Tensor, sample: dict[str, Any], gathers: bool
) -> tuple[Tensor, Tensor, int]:
    """Return what is contrasted with each other: a batch, or those of all workers.

    Args:
        features: ``(N, D)`` of this worker's batch.
        sample: the batch, with ``target`` of N elements; :data:`IGNORED` in it says
            that this worker adds nothing.
        gathers: whether to ask the other workers, as all have to.

    Returns:
        features ``(M, D)``, labels ``(M,)``, and how many of the first rows are this
        worker's own, the anchors of its loss.
    """
    labels = sample["target"].view(-1)
    if not gathers:
        return features, labels, len(labels)
    anchors = 0 if sample.get(IGNORED, False) else len(labels)
    # float32: gradients of half precision would be rounded when added.
    own = at_least_float32(features[:anchors])
    rows, classes = gather_features(own, labels[:anchors], data_parallel_group())
    return rows, classes, anchors


def gather_features(
    features: Tensor, labels: Tensor, group: Any
) -> tuple[Tensor, Tensor]:
    """Collect the features and labels of all workers, with the worker's own rows first.

    This is a collective operation: every worker of the group must call it, and run
    backward through its result, the same number of times. Workers may have different
    numbers of rows, including none. There is one device sync, for these numbers.

    A worker's gradient with respect to its ``features`` is that of the sum of all
    workers' losses, because each worker's backward pass sends the others their shares.
    fairseq sums the workers' gradients (DDP's mean times the number of workers) and
    divides by the examples of all workers, so no further scaling is needed.

    Args:
        features: ``(n, D)``, a floating dtype, the same D and dtype on all workers.
        labels: ``(n,)``, an integer dtype.
        group: the process group; ``None`` if the worker is alone.

    Returns:
        ``(N, D)`` and ``(N,)`` for the N examples of all workers: the worker's own n
        first, then the others by rank. The arguments themselves if the worker is alone.
    """
    if group is None:
        return features, labels
    own = torch.tensor([len(labels)], device=features.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, own, group=group)
    sizes: list[int] = torch.cat(counts).tolist()
    if not any(sizes):
        return features, labels
    everything: Tensor = _Gather.apply(features, sizes, group)
    return everything, _gather(labels, sizes, group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, sizes: list[int], group: Any) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _gather(features, sizes, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        sizes, group = ctx.sizes, ctx.group
        rank = dist.get_rank(group)
        padded = upstream.new_zeros(len(sizes), max(sizes), upstream.shape[1])
        ranks = _own_first(sizes, rank)
        parts = upstream.split([sizes[r] for r in ranks])
        for r, part in zip(ranks, parts, strict=True):
            padded[r, : sizes[r]] = part
        if dist.get_backend(group) == "nccl":
            mine = torch.empty_like(padded[rank])
            dist.reduce_scatter_tensor(mine, padded.flatten(0, 1), group=group)
        else:  # not all backends support reduce_scatter
            dist.all_reduce(padded, group=group)
            mine = padded[rank]
        return mine[: sizes[rank]], None, None


def _gather(rows: Tensor, sizes: list[int], group: Any) -> Tensor:
    """Collect different numbers of rows: pad them to the same number, then cut."""
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded, group=group)
    ranks = _own_first(sizes, dist.get_rank(group))
    return torch.cat([found[r][: sizes[r]] for r in ranks])


def _own_first(sizes: list[int], rank: int) -> list[int]:
    return [rank, *(r for r in range(len(sizes)) if r != rank)]
