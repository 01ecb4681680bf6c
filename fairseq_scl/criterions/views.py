"""The contrastive term without labels: Eq. 4 over two views of each example."""

from typing import Any

import torch
from torch import Tensor

from fairseq_scl.losses import (
    self_supervised_contrastive_loss,
    supervised_contrastive_floor,
)


def views_sum(features: Tensor, temperature: float, log: dict[str, Any]) -> Tensor:
    """Sum Eq. 4 of Gunel et al. (2021) over 2N views and halve it, N terms as of Eq. 3.

    Args:
        features: ``(2N, D)``, those of the first views, then those of the second.
        temperature: τ > 0.
        log: gets ``scl_floor`` and ``scl_anchors``, sums over the N examples too.

    Returns:
        a scalar.
    """
    first, second = features.chunk(2)
    example = torch.arange(len(first), device=features.device).repeat(2)
    log["scl_floor"] = supervised_contrastive_floor(example, temperature) / 2
    log["scl_anchors"] = torch.tensor(len(first), device=features.device)
    return self_supervised_contrastive_loss(first, second, temperature) / 2
