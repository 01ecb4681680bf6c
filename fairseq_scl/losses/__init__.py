"""The paper's equations as pure functions of tensors, independent of fairseq."""

from fairseq_scl.losses.contrastive import (
    self_supervised_contrastive_loss,
    supervised_contrastive_floor,
    supervised_contrastive_loss,
)

__all__ = [
    "self_supervised_contrastive_loss",
    "supervised_contrastive_floor",
    "supervised_contrastive_loss",
]
