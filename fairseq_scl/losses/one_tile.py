"""Eq. 3 and its gradient for batches that are small relative to the feature width.

For such batches N × N matrices are cheaper than N × D ones and the number of operations
dominates. The positives are therefore a matrix: Q_ij = 1 / |P(i)| for j in P(i),
otherwise 0. Let p_ij be the softmax of Φ_i·Φ_j / τ over j ≠ i and g the upstream
gradients. Then

    ℓ_i = -Σ_j Q_ij log p_ij
    A_ij = g_i (p_ij - Q_ij), the gradient with respect to Φ_i·Φ_j / τ
    ∂/∂Φ = (A + Aᵀ) Φ / τ: each example as an anchor and as a candidate
    ∂/∂x_i = (∂/∂Φ_i - Φ_i (Φ_i·∂/∂Φ_i)) / |x_i|

The last line is also a product of a single N × N matrix with Φ: Φ_i·∂/∂Φ_i is the sum
of row i of (A + Aᵀ) times the similarities, and is subtracted from the diagonal.
"""

from typing import Any

import torch
from torch import Tensor

from fairseq_scl.losses.shared import (
    at_least_float32,
    l2_normalize,
    refuse_second_derivative,
)

# Used on the diagonal instead of -inf: it gets no weight in the softmax, and 0 times it
# is 0 rather than NaN.
NO_CANDIDATE = -1e30


def contrast_in_one_tile(
    features: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Compute Eq. 3 with all rows as anchors; differentiable once.

    Args:
        features: ``(N, D)``, any floating dtype, with N ≥ 2.
        labels: ``(N,)``, an integer dtype.
        temperature: τ > 0.

    Returns:
        ``(N,)``, float32 or float64: the loss of each anchor; 0 for anchors without a
        positive.
    """
    losses: Tensor = _OneTile.apply(features, labels, float(temperature))
    return losses


class _OneTile(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, labels: Tensor, temperature: float
    ) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            phi, length = l2_normalize(at_least_float32(features.detach()))
            s = (phi @ phi.T).div_(temperature).fill_diagonal_(NO_CANDIDATE)
            log_p = s.log_softmax(dim=1)
            q = (labels[:, None] == labels).to(phi.dtype).fill_diagonal_(0)
            positives = q.sum(dim=1, keepdim=True)
            lonely = positives == 0
            q.div_(positives.clamp_(min=1))
            losses = (q * log_p).sum(dim=1).neg_()
        ctx.temperature, ctx.dtype = temperature, features.dtype
        ctx.save_for_backward(phi, length, s, log_p, q, lonely)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        phi, length, s, log_p, q, lonely = ctx.saved_tensors
        with torch.autocast(phi.device.type, enabled=False):
            g = upstream[:, None].masked_fill(lonely, 0.0)
            a = log_p.exp().sub_(q).mul_(g)
            weights = a + a.T
            radial = (weights * s).sum(dim=1)
            weights.div_(ctx.temperature).diagonal().sub_(radial)
            gradient = weights.div_(length) @ phi
        return gradient.to(ctx.dtype), None, None
