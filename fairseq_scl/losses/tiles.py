"""Eq. 3 in strips of anchors, and its gradient: memory grows with N, not with N².

Notation: Φ are the normalized features, s_ij = Φ_i·Φ_j / τ, Z_i = Σ_{k≠i} exp(s_ik),
p_ij = exp(s_ij) / Z_i, P(i) are the positives of i, and S_y is the sum of Φ over class
y.

Loss. Only the sum of the positives matters, so an N × N mask is not needed:
ℓ_i = log Z_i - Φ_i·(S_{y_i} - Φ_i) / (|P(i)| τ).

Gradient of Σ g_i ℓ_i for upstream gradients g, with c_i = g_i / |P(i)|:
    as an anchor     τ·∂/∂Φ_i = g_i Σ_j p_ij Φ_j - c_i (S_{y_i} - Φ_i)
    as a candidate   τ·∂/∂Φ_j = Σ_i g_i p_ij Φ_i - Σ_{i≠j, y_i=y_j} c_i Φ_i
and, since Φ = x / |x|, ∂/∂x = (∂/∂Φ - Φ (Φ·∂/∂Φ)) / |x|.

s is symmetric, so each pair of anchors is computed only once. The strip of anchors
[a, b) holds the columns from a on. Its columns that belong to later anchors are also
used for those anchors.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairseq_scl.losses.shared import (
    at_least_float32,
    l2_normalize,
    refuse_second_derivative,
)

# Anchors per strip. On a CPU, 128 rows run the matrix product at full speed and skip
# almost all of the lower triangle. A GPU needs fewer and larger products.
STRIP = {"cpu": 128}
STRIP_ELSEWHERE = 1024
# Up to this many entries (64 MiB in float32) the forward pass keeps its strips for the
# backward pass; beyond, they are recomputed.
KEPT_ENTRIES = 2**24
# s is between -1/τ and 1/τ, so exp(s - 1/τ) is at least exp(-2/τ). Up to these values
# of 2/τ that is far from underflow, and 1/τ can be the shift of every row.
WIDEST = {torch.float32: 60.0, torch.float64: 600.0}


def contrast_in_strips(
    features: Tensor, labels: Tensor, temperature: float, anchors: int
) -> Tensor:
    """Compute Eq. 3 with the first rows of a batch as anchors; differentiable once.

    Args:
        features: ``(N, D)``, any floating dtype, with N ≥ 2.
        labels: ``(N,)``, an integer dtype.
        temperature: τ > 0.
        anchors: number n of anchors, which are the first rows; the rest are only
            candidates.

    Returns:
        ``(n,)``, float32 or float64: the loss of each anchor; 0 for anchors without a
        positive.
    """
    losses: Tensor = _Contrast.apply(features, labels, float(temperature), anchors)
    return losses


def classes_and_positives(labels: Tensor, anchors: int) -> tuple[Tensor, Tensor]:
    """Number the classes and count the positives, without a device sync.

    ``torch.unique`` would need a sync, because the size of its result depends on the
    labels. A class is numbered by its first position among the sorted labels.

    Args:
        labels: ``(N,)``, an integer dtype.
        anchors: n, as in :func:`contrast_in_strips`.

    Returns:
        ``(N,)`` int64, the class of each example, from 0 to N - 1; and ``(n,)`` int64,
        the number of other examples with the label of each anchor.
    """
    ordered = labels.sort().values
    first = torch.searchsorted(ordered, labels)
    last = torch.searchsorted(ordered, labels[:anchors], right=True)
    return first, last.sub_(first[:anchors]).sub_(1)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, labels: Tensor, temperature: float, anchors: int
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            phi, length = l2_normalize(at_least_float32(features.detach()))
            own = _first(phi, anchors)
            classes, positives = classes_and_positives(labels, anchors)
            lonely = positives == 0
            share = (
                positives.to(phi.dtype).clamp_(min=1).mul_(temperature).reciprocal_()
            )
            others = _first(_sums_of_class(phi, classes, classes), anchors) - own

            strip = STRIP.get(features.device.type, STRIP_ELSEWHERE)
            similarities = _Similarities(phi, temperature, anchors, strip)
            keep = ctx.needs_input_grad[0] and anchors * len(phi) <= KEPT_ENTRIES
            z, log_z, kept = similarities.denominators(keep)
            losses = log_z.addcmul((others * own).sum(dim=1), share, value=-1)
        ctx.settings = temperature, anchors, strip, features.dtype
        ctx.save_for_backward(phi, length, classes, lonely, share, others, z, *kept)
        return losses.masked_fill_(lonely, 0.0)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        phi, length, classes, lonely, share, others, z, *kept = ctx.saved_tensors
        temperature, anchors, strip, dtype = ctx.settings
        with torch.autocast(phi.device.type, enabled=False):
            g = upstream.masked_fill(lonely, 0.0)
            c = (g * share)[:, None]
            if upstream.stride() == (0,) and anchors == len(phi):
                # g is the same for all, as in the backward pass of a sum: both terms
                # are equal.
                gradient = others * c.mul_(-2)
            else:
                pulls = c * _first(phi, anchors)
                gradient = _sums_of_class(pulls, _first(classes, anchors), classes)
                gradient.neg_()[:anchors].add_(pulls).sub_(c * others)
            similarities = _Similarities(phi, temperature, anchors, strip)
            similarities.add_repulsion(gradient, g, z, kept)

            radial = (gradient * phi).sum(dim=1, keepdim=True)
            gradient.addcmul_(phi, radial, value=-1).div_(length)
        return gradient.to(dtype), None, None, None


class _Similarities:
    """The strips of s, computed on demand."""

    def __init__(
        self, phi: Tensor, temperature: float, anchors: int, strip: int
    ) -> None:
        self.phi, self.temperature = phi, temperature
        self.anchors, self.strip = anchors, strip
        self.one_shift = 2 / temperature <= WIDEST[phi.dtype]

    def denominators(self, keep: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return Z·exp(-1/τ) or log Z ``(n,)``, log Z, and the strips to keep."""
        empty = 0.0 if self.one_shift else -math.inf
        z = self.phi.new_full((self.anchors,), empty)
        kept = []
        for a, b in self._ranges():
            values = self._values(a, b)
            later = values[:, b - a : self.anchors - a]
            if self.one_shift:
                z[a:b].add_(values.sum(dim=1))
                z[b:].add_(later.sum(dim=0))
            else:
                z[a:b] = z[a:b].logaddexp(values.logsumexp(dim=1))
                z[b:] = z[b:].logaddexp(later.logsumexp(dim=0))
            if keep:
                kept.append(values)
        return z, z.log().add_(1 / self.temperature) if self.one_shift else z, kept

    def add_repulsion(
        self, gradient: Tensor, g: Tensor, z: Tensor, kept: list[Tensor]
    ) -> None:
        """Add Σ_j (g_i p_ij + g_j p_ji) Φ_j / τ to row i of ``gradient``, ``(N, D)``.

        ``z`` and ``kept`` are from :meth:`denominators`.
        """
        scale, alpha = g / z if self.one_shift else g, 1 / self.temperature
        for number, (a, b) in enumerate(self._ranges()):
            values = kept[number] if kept else self._values(a, b)
            weights = self._weights(values, scale, z, a, b)
            gradient[a:b].addmm_(weights, self.phi[a:], alpha=alpha)
            if b < len(self.phi):
                turned = weights[:, b - a :].T
                gradient[b:].addmm_(turned, self.phi[a:b], alpha=alpha)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        for a in range(0, self.anchors, self.strip):
            yield a, min(a + self.strip, self.anchors)

    def _values(self, a: int, b: int) -> Tensor:
        """Return exp(s - 1/τ) ``(b - a, N - a)`` if one shift suffices, otherwise s."""
        shift = -1 / self.temperature if self.one_shift else 0.0
        values = torch.addmm(
            self.phi.new_full((1, 1), shift),
            self.phi[a:b],
            self.phi[a:].T,
            alpha=1 / self.temperature,
        )
        if self.one_shift:
            values.exp_().diagonal().zero_()  # every sum excludes k = i
        else:
            values.diagonal().fill_(-math.inf)
        return values

    def _weights(
        self, values: Tensor, scale: Tensor, z: Tensor, a: int, b: int
    ) -> Tensor:
        """Return g_i p_ij + g_j p_ji, the second term only for columns of anchors."""
        columns = self.anchors - a
        if self.one_shift:
            weights = values * scale[a:b, None]
            weights[:, :columns].addcmul_(values[:, :columns], scale[a:])
        else:
            weights = (values - z[a:b, None]).exp_().mul_(scale[a:b, None])
            turned = (values[:, :columns] - z[a:]).exp_()
            weights[:, :columns].addcmul_(turned, scale[a:])
        return weights


def _sums_of_class(rows: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    """Sum rows by class and return the sum for each wanted class."""
    # class numbers are below the number of examples
    sums = rows.new_zeros(len(wanted), rows.shape[1]).index_add_(0, classes, rows)
    return sums.index_select(0, wanted)


def _first(rows: Tensor, count: int) -> Tensor:
    return rows if count == len(rows) else rows[:count]
