"""Equations 3 and 4 of Gunel et al. (2021), arXiv 2011.01403."""

import math
import numbers

import torch
from torch import Tensor

from fairseq_scl.losses.one_tile import contrast_in_one_tile
from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.losses.tiles import classes_and_positives, contrast_in_strips

REDUCTIONS = ("none", "sum", "mean")
# Largest batch computed as a single tile; larger ones use strips of anchors.
ONE_TILE = 256


def supervised_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    temperature: float,
    reduction: str = "sum",
    anchors: int | None = None,
) -> Tensor:
    """Supervised contrastive loss, Eq. 3 of Gunel et al. (2021).

    Let P(i) = {j ≠ i : y_j = y_i} be the positives of an anchor i and Φ the
    l2-normalized features. The loss of i is the mean over j in P(i) of
    ``-log(exp(Φ_i·Φ_j / τ) / Σ_{k≠i} exp(Φ_i·Φ_k / τ))``.

    An anchor without a positive contributes exactly 0 and still counts in the divisor
    of ``"mean"``. In a batch of a single class, each anchor has a loss of at least
    log(N - 1). A zero vector has similarity 0 to all others. N = 0 and N = 1 give 0.
    The loss does not go to 0: see :func:`supervised_contrastive_floor`.

    The backward pass is written by hand, so the loss can be differentiated once but not
    twice. Memory grows with N, not with N². :mod:`fairseq_scl.losses.one_tile` derives
    the gradient for small batches and :mod:`fairseq_scl.losses.tiles` for large ones.

    Args:
        features: ``(N, D)``, any floating dtype; they need not be normalized. The
            loss is computed in float32 (float64 for float64 features), even under
            autocast.
        labels: ``(N,)``, an integer dtype: the class of each example.
        temperature: τ > 0.
        reduction: ``"sum"`` over anchors (the equation), ``"mean"`` = sum / anchors,
            or ``"none"``.
        anchors: number n of anchors, which are the first n rows. The other rows, such
            as the examples of other workers, are only candidates; they get a gradient,
            too. If a batch is split into parts that are anchors in turn, the gradients
            add up to that of the whole batch. ``None`` means all N.

    Returns:
        a scalar, or ``(n,)`` for ``"none"``; float32, or float64 for float64 features.

    Raises:
        ValueError: shapes are wrong, features are not floating-point, labels are not
            integers, τ is not a positive number, the reduction is unknown, or n is not
            between 0 and N.
    """
    check_batch(features, labels, temperature, reduction)
    count = _anchor_count(anchors, len(features))
    if len(features) < 2:  # no candidates: 0, with a gradient of 0
        losses = at_least_float32(features[:count, :0]).sum(dim=1)
    elif count == len(features) <= ONE_TILE:
        losses = contrast_in_one_tile(features, labels, temperature)
    else:
        losses = contrast_in_strips(features, labels, temperature, count)
    return reduce_losses(losses, reduction)


def self_supervised_contrastive_loss(
    first: Tensor, second: Tensor, temperature: float, reduction: str = "sum"
) -> Tensor:
    """Self-supervised contrastive loss over two views, Eq. 4 of Gunel et al. (2021).

    Each of the 2N views is an anchor. The other view of its example is the only
    positive, and the remaining 2N - 2 views are the negatives. This is Eq. 3 with each
    example in a class of its own.

    Args:
        first: ``(N, D)``, any floating dtype: one view of each example.
        second: ``(N, D)``: the other view, in the same order.
        temperature: τ > 0.
        reduction: ``"sum"`` over the 2N anchors (the equation), ``"mean"`` = sum / 2N,
            or ``"none"``.

    Returns:
        a scalar, or ``(2N,)`` for ``"none"`` (the first views, then the second);
        float32, or float64 for float64 features.

    Raises:
        ValueError: as in :func:`supervised_contrastive_loss`, or the views differ in
            shape.
    """
    if first.shape != second.shape:
        raise ValueError(
            "both views must have the same shape (N, D), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    views = torch.cat([first, second])
    example = torch.arange(len(first), device=first.device).repeat(2)
    return supervised_contrastive_loss(views, example, temperature, reduction)


def supervised_contrastive_floor(
    labels: Tensor,
    temperature: float,
    reduction: str = "sum",
    anchors: int | None = None,
) -> Tensor:
    """Lower bound of Eq. 3 for the classes of a batch, over all possible features.

    The loss of an anchor with p positives and n negatives is at least
    log(p + n·exp(-2/τ)). By Jensen's inequality the best case has every positive at
    cosine 1 and every negative at -1. Two classes can reach it (at opposite poles),
    three or more can only approach it. The bound of an anchor without a positive is 0.

    Args:
        labels: ``(N,)``, an integer dtype.
        temperature: τ > 0.
        reduction: ``"sum"``, ``"mean"`` or ``"none"``, as in
            :func:`supervised_contrastive_loss`.
        anchors: n, as in :func:`supervised_contrastive_loss`.

    Returns:
        a scalar, or ``(n,)`` for ``"none"``; float32, no gradient.

    Raises:
        ValueError: labels are not ``(N,)`` integers, or τ, the reduction or n is
            invalid.
    """
    if labels.dim() != 1:
        raise ValueError(f"labels must be (N,), got shape {tuple(labels.shape)}")
    _check_labels(labels)
    _check_settings(temperature, reduction)
    count = _anchor_count(anchors, len(labels))
    _, positives = classes_and_positives(labels, count)
    farthest = math.exp(-2 / temperature)
    # p + n·exp(-2/τ) with n = N - 1 - p
    best = positives * (1 - farthest) + (len(labels) - 1) * farthest
    # anchors without a positive: log 1 = 0
    return reduce_losses(best.masked_fill_(positives == 0, 1.0).log_(), reduction)


def reduce_losses(losses: Tensor, reduction: str) -> Tensor:
    """Reduce ``(N,)`` losses by ``"sum"``, ``"mean"`` (0 for N = 0) or ``"none"``."""
    if reduction == "none":
        return losses
    return losses.sum() / (max(len(losses), 1) if reduction == "mean" else 1)


def _anchor_count(anchors: int | None, size: int) -> int:
    if anchors is None:
        return size
    if not (isinstance(anchors, int) and 0 <= anchors <= size):
        raise ValueError(f"anchors must be a number from 0 to {size}, got {anchors!r}")
    return anchors


def check_batch(
    features: Tensor, labels: Tensor, temperature: float, reduction: str
) -> None:
    """Check a batch of features ``(N, D)`` and labels ``(N,)``, τ and the reduction.

    Raises:
        ValueError: a shape or dtype is wrong, the temperature is not above 0, or the
            reduction is unknown.
    """
    if features.dim() != 2:
        raise ValueError(f"features must be (N, D), got shape {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating-point, got {features.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be (N,) = ({len(features)},) to match the features, got "
            f"shape {tuple(labels.shape)}"
        )
    _check_labels(labels)
    _check_settings(temperature, reduction)


def _check_labels(labels: Tensor) -> None:
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers (class ids), got {labels.dtype}")


def _check_settings(temperature: float, reduction: str) -> None:
    if not (isinstance(temperature, numbers.Real) and 0 < temperature < math.inf):
        raise ValueError(f"temperature must be a number above 0, got {temperature!r}")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}"
        )
