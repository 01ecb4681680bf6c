"""Equations 3 and 4 of Gunel et al. (2021), arXiv 2011.01403."""

import math
import numbers

import torch
from torch import Tensor

from fairseq_scl.losses.one_tile import contrast_in_one_tile
from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.losses.tiles import classes_and_positives, contrast_in_strips

REDUCTIONS = ("none", "sum", "mean")
# Up to so many examples all pairs are one tile; beyond, strips of anchors.
ONE_TILE = 256


def supervised_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    temperature: float,
    reduction: str = "sum",
    anchors: int | None = None,
) -> Tensor:
    """Supervised contrastive loss, Eq. 3 of Gunel et al. (2021).

    For an anchor i with positives P(i) = {j ≠ i : y_j = y_i} and Φ the l2-normalised
    features, the mean over j in P(i) of
    ``-log(exp(Φ_i·Φ_j / τ) / Σ_{k≠i} exp(Φ_i·Φ_k / τ))``.

    An anchor without a positive contributes exactly 0 and stays in the divisor of
    ``"mean"``. A batch of one class is not degenerate: each of its anchors has at least
    log(N - 1). A zero vector has similarity 0 to all others. N = 0 and N = 1 give 0.
    The loss does not go to 0: see :func:`supervised_contrastive_floor`.

    The gradient is written out and can be taken once, not twice. Memory grows with N,
    not with N²: :mod:`fairseq_scl.losses.one_tile` and :mod:`fairseq_scl.losses.tiles`
    derive it for small batches and for large ones.

    Args:
        features: ``(N, D)``, any floating dtype, need not be normalised. The
            computation is in float32 (float64 for float64 features), also under
            autocast.
        labels: ``(N,)``, an integer dtype: the class of each example.
        temperature: τ > 0.
        reduction: ``"sum"`` over anchors (the equation), ``"mean"`` = sum / anchors,
            or ``"none"``.
        anchors: n, if only the first n rows are anchors; the rest are candidates, as
            the examples of other workers are. The gradient reaches all rows, and the
            gradients of the parts of a batch add up to that of the whole. ``None``:
            all N.

    Returns:
        a scalar, or ``(n,)`` for ``"none"``; float32, or float64 for float64 features.

    Raises:
        ValueError: wrong shapes, features that are not floating-point, labels that are
            not integers, τ that is not a positive number, an unknown reduction, n that
            is not from 0 to N.
    """
    check_batch(features, labels, temperature, reduction)
    count = _anchor_count(anchors, len(features))
    return reduce_losses(_contrast(features, labels, temperature, count), reduction)


def self_supervised_contrastive_loss(
    first: Tensor, second: Tensor, temperature: float, reduction: str = "sum"
) -> Tensor:
    """Self-supervised contrastive loss over two views, Eq. 4 of Gunel et al. (2021).

    Each of the 2N views is an anchor, the other view of its example the only positive
    and the remaining 2N - 2 views the negatives: Eq. 3 with every example its own
    class.

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
        ValueError: as :func:`supervised_contrastive_loss`, or views of unlike shapes.
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
    """Lower bound of Eq. 3 for the classes of a batch, whatever the features.

    An anchor with p positives and n negatives has at least log(p + n·exp(-2/τ)): by
    Jensen's inequality its best case is every positive at cosine 1 and every negative
    at -1. Two classes reach it (opposite poles); three or more only come close. An
    anchor without a positive has 0.

    Args:
        labels: ``(N,)``, an integer dtype.
        temperature: τ > 0.
        reduction: ``"sum"``, ``"mean"`` or ``"none"``, as in
            :func:`supervised_contrastive_loss`.
        anchors: n, as there.

    Returns:
        a scalar, or ``(n,)`` for ``"none"``; float32, no gradient.

    Raises:
        ValueError: labels that are not ``(N,)`` integers, a wrong τ, reduction or n.
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
    # An anchor without a positive: log 1 = 0.
    return reduce_losses(best.masked_fill_(positives == 0, 1.0).log_(), reduction)


def reduce_losses(losses: Tensor, reduction: str) -> Tensor:
    """Reduce ``(N,)`` losses: ``"sum"``, ``"mean"`` (0 if N is 0) or ``"none"``."""
    if reduction == "none":
        return losses
    return losses.sum() / (max(len(losses), 1) if reduction == "mean" else 1)


def _contrast(
    features: Tensor, labels: Tensor, temperature: float, anchors: int
) -> Tensor:
    if len(features) < 2:  # no candidates: 0, with a gradient of 0
        return at_least_float32(features[:anchors, :0]).sum(dim=1)
    if anchors == len(features) <= ONE_TILE:
        return contrast_in_one_tile(features, labels, temperature)
    return contrast_in_strips(features, labels, temperature, anchors)


def _anchor_count(anchors: int | None, size: int) -> int:
    if anchors is None:
        return size
    if not (isinstance(anchors, int) and 0 <= anchors <= size):
        raise ValueError(f"anchors must be a number from 0 to {size}, got {anchors!r}")
    return anchors


def check_batch(
    features: Tensor, labels: Tensor, temperature: float, reduction: str
) -> None:
    """Refuse what is no batch of features ``(N, D)`` and labels ``(N,)``.

    Raises:
        ValueError: another shape or dtype, a temperature that is not above 0, an
            unknown reduction.
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
