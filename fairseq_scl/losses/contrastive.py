"""Equations 3 and 4 of Gunel et al. (2021), arXiv 2011.01403."""

import math
import numbers

import torch
from torch import Tensor

REDUCTIONS = ("none", "sum", "mean")


def supervised_contrastive_loss(
    features: Tensor, labels: Tensor, temperature: float, reduction: str = "sum"
) -> Tensor:
    """Supervised contrastive loss, Eq. 3 of Gunel et al. (2021).

    For an anchor i with positives P(i) = {j ≠ i : y_j = y_i} and Φ the l2-normalised
    features, the mean over j in P(i) of
    ``-log(exp(Φ_i·Φ_j / τ) / Σ_{k≠i} exp(Φ_i·Φ_k / τ))``.

    An anchor without a positive contributes exactly 0 and stays in the divisor of
    ``"mean"``. A batch of one class is not degenerate: each of its anchors has at least
    log(N - 1). A zero vector has similarity 0 to all others. N = 0 and N = 1 give 0.
    The loss does not go to 0: see :func:`supervised_contrastive_floor`.

    Args:
        features: ``(N, D)``, any floating dtype, need not be normalised. The
            computation is in float32 (float64 for float64 features), also under
            autocast.
        labels: ``(N,)``, an integer dtype: the class of each example.
        temperature: τ > 0.
        reduction: ``"sum"`` over anchors (the equation), ``"mean"`` = sum / N, or
            ``"none"``.

    Returns:
        a scalar, or ``(N,)`` for ``"none"``; float32, or float64 for float64 features.

    Raises:
        ValueError: wrong shapes, features that are not floating-point, labels that are
            not integers, τ that is not a positive number, an unknown reduction.
    """
    _check(features, labels, temperature, reduction)
    with torch.autocast(features.device.type, enabled=False):
        normalised = _l2_normalise(features)
        similarity = normalised @ normalised.T / temperature
        itself = torch.eye(len(labels), dtype=torch.bool, device=features.device)
        positive = (labels[:, None] == labels[None, :]) & ~itself
        count = positive.sum(dim=1)

        # -inf on the diagonal: k = i is in no sum, and the maximum that logsumexp
        # subtracts is taken over the candidates alone. A lone example has none.
        candidates = similarity.masked_fill(itself, -math.inf if len(labels) > 1 else 0)
        log_denominator = candidates.logsumexp(dim=1)
        mean_positive = (similarity * positive).sum(dim=1) / count.clamp(min=1)
        losses = (log_denominator - mean_positive).masked_fill(count == 0, 0.0)
    return _reduce(losses, reduction)


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
    labels: Tensor, temperature: float, reduction: str = "sum"
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

    Returns:
        a scalar, or ``(N,)`` for ``"none"``; float32, no gradient.

    Raises:
        ValueError: labels that are not ``(N,)`` integers, a wrong τ or reduction.
    """
    if labels.dim() != 1:
        raise ValueError(f"labels must be (N,), got shape {tuple(labels.shape)}")
    _check(labels.new_zeros(len(labels), 1).float(), labels, temperature, reduction)
    positives = (labels[:, None] == labels[None, :]).sum(dim=1) - 1
    negatives = len(labels) - 1 - positives
    best = (positives + negatives * math.exp(-2 / temperature)).clamp(min=1e-30).log()
    return _reduce(best.masked_fill(positives == 0, 0.0), reduction)


def _l2_normalise(features: Tensor) -> Tensor:
    """Normalise rows to length 1 in float32 or float64; zero rows stay zero.

    Dividing by the largest entry first keeps the squares of very small and very large
    features representable; it is a constant to the gradient, because the result does
    not depend on it.
    """
    if features.dtype != torch.float64:
        features = features.float()
    if features.shape[1] == 0:
        return features
    largest = features.detach().abs().amax(dim=1, keepdim=True)
    scaled = features / largest.masked_fill(largest == 0, 1.0)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / length.masked_fill(largest == 0, 1.0)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / (max(len(losses), 1) if reduction == "mean" else 1)


def _check(
    features: Tensor, labels: Tensor, temperature: float, reduction: str
) -> None:
    if features.dim() != 2:
        raise ValueError(f"features must be (N, D), got shape {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating-point, got {features.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be (N,) = ({len(features)},) to match the features, got "
            f"shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers (class ids), got {labels.dtype}")
    if not (isinstance(temperature, numbers.Real) and 0 < temperature < math.inf):
        raise ValueError(f"temperature must be a number above 0, got {temperature!r}")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}"
        )
