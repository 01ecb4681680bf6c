"""What both ways to compute Eq. 3 begin with, and their common refusal."""

import torch
from torch import Tensor


def at_least_float32(features: Tensor) -> Tensor:
    """Return float64 features as they are, others as float32."""
    return features if features.dtype == torch.float64 else features.float()


def l2_normalise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise rows to length 1; zero rows stay zero and count as of length 1.

    Dividing by the largest entry first keeps the squares of very small and very large
    features representable.

    Args:
        features: ``(N, D)``, float32 or float64.

    Returns:
        ``(N, D)`` and the lengths ``(N, 1)``.
    """
    if features.shape[1] == 0:
        return features, features.new_ones(len(features), 1)
    largest = features.abs().amax(dim=1, keepdim=True)
    largest.masked_fill_(largest == 0, 1.0)
    phi = features / largest
    # At least 1 now, but for zero rows.
    length = torch.linalg.vector_norm(phi, dim=1, keepdim=True).clamp_(min=1)
    return phi.div_(length), largest.mul_(length)


def refuse_second_derivative() -> None:
    """Refuse ``create_graph=True``: called first in a backward pass.

    Raises:
        RuntimeError: the gradient itself is to be differentiated. It would be taken
            for a constant without a word.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the contrastive loss can be differentiated once, not twice: its gradient "
            "cannot be taken with create_graph=True"
        )
