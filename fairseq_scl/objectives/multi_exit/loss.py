"""Contrast across layers: the deepest exit guides the shallow ones.

After ACL-CL of Li and Zhu (2026), arXiv 2602.03563. Its full text was not available, so
the choices below are ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_scl.losses.contrastive import check_batch
from fairseq_scl.losses.shared import at_least_float32

# The role of the anchor's own example among the guides.
OWN = ("positive", "out")


def cross_layer_contrastive_loss(
    features: Tensor,
    guides: Tensor,
    labels: Tensor,
    temperature: float,
    own: str = "positive",
    guide_labels: Tensor | None = None,
) -> Tensor:
    """Eq. 3 of Gunel et al. (2021) with anchors of one layer and candidates of another.

    Let K(i) be the guides of an anchor i, P(i) those with its label, and Φ and Ψ the
    normalized features of anchors and guides. The loss of i is the mean over j in P(i)
    of ``-log(exp(Φ_i·Ψ_j / τ) / Σ_{k in K(i)} exp(Φ_i·Ψ_k / τ))``. If the guides are
    the rest of the batch, a single anchor has the loss of
    :func:`fairseq_scl.losses.supervised_contrastive_loss`. An anchor without a positive
    contributes exactly 0.

    Args:
        features: ``(n, D)``, any floating dtype: the anchors, features of a shallow
            exit; they need not be normalized. The loss is computed in float32 (float64
            for float64 features), even under autocast.
        guides: ``(N, D)``: features of the deepest exit in the same order, followed by
            those of other workers. They do not get a gradient.
        labels: ``(n,)``, an integer dtype: the class of each anchor.
        temperature: τ > 0.
        own: the deepest features of the anchor's own example are a ``"positive"``, or
            are left ``"out"`` of both sums.
        guide_labels: ``(N,)``: the class of each guide; ``None`` if N = n.

    Returns:
        a scalar, the sum over anchors; float32, or float64 for float64 features.

    Raises:
        ValueError: shapes or dtypes are wrong, τ is not a positive number, ``own`` is
            unknown, or there are fewer guides than anchors.
    """
    guide_labels = labels if guide_labels is None else guide_labels
    check_batch(features, labels, temperature, "sum")
    check_batch(guides, guide_labels, temperature, "sum")
    if own not in OWN:
        raise ValueError(f"own must be one of {', '.join(OWN)}, got {own!r}")
    if len(guides) < len(features) or guides.shape[1:] != features.shape[1:]:
        raise ValueError(
            "guides must be (N, D) with one row per anchor (n, D) = "
            f"{tuple(features.shape)}, got {tuple(guides.shape)}"
        )
    with torch.autocast(features.device.type, enabled=False):
        psi = _normalized(guides.detach())
        phi = _normalized(features)
        similarities = phi @ psi.T.to(phi.dtype) / temperature
        losses = _from_similarities(similarities, labels, guide_labels, own == "out")
    return losses.sum()


def _from_similarities(
    s: Tensor, labels: Tensor, guide_labels: Tensor, without_own: bool
) -> Tensor:
    """Return the loss ``(n,)`` of each anchor from its similarities ``(n, N)``."""
    positive = labels[:, None] == guide_labels
    if without_own:
        own = torch.eye(*s.shape, dtype=torch.bool, device=s.device)
        positive &= ~own
        s = s.masked_fill(own, -torch.inf)
    count = positive.sum(dim=1)
    # A row of all -inf would give NaN gradients.
    s = s.masked_fill((count == 0)[:, None], 0.0)
    mean = s.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    losses = (s.logsumexp(dim=1) if s.shape[1] else mean) - mean
    return losses.masked_fill(count == 0, 0.0)


def _normalized(features: Tensor) -> Tensor:
    features = at_least_float32(features)
    if features.numel():  # squares of very small and very large entries
        largest = features.detach().abs().amax(dim=1, keepdim=True)
        features = features / largest.masked_fill(largest == 0, 1.0)
    # of length 1 or more by now, except for zeros, whose gradient stays finite
    return F.normalize(features, dim=1, eps=1.0)
