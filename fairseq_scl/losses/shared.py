"""Helpers shared by both implementations of Eq. 3."""

import torch
from torch import Tensor


def at_least_float32(features: Tensor) -> Tensor:
    """Cast features to float32, except float64 ones."""
    return features if features.dtype == torch.float64 else features.float()


def l2_normalize(features: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize rows to length 1; zero rows stay zero and get the length 1.

    Rows are divided by their largest entry first, so that the squares of very small and
    very large features do not underflow or overflow.

    Args:
        features: ``(N, D)``, float32 or float64.

    Returns:
        normalized rows ``(N, D)`` and their original lengths ``(N, 1)``.
    """
    if features.shape[1] == 0:
        return features, features.new_ones(len(features), 1)
    largest = features.abs().amax(dim=1, keepdim=True)
    largest.masked_fill_(largest == 0, 1.0)
    phi = features / largest
    # at least 1 by now, except for zero rows
    length = torch.linalg.vector_norm(phi, dim=1, keepdim=True).clamp_(min=1)
    return phi.div_(length), largest.mul_(length)


def refuse_second_derivative() -> None:
    """Refuse ``create_graph=True``; to be called first in a backward pass.

    Raises:
        RuntimeError: the gradient itself is to be differentiated. Autograd would
            silently treat it as a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the contrastive loss can be differentiated once, not twice: its gradient "
            "cannot be taken with create_graph=True"
        )
