"""The paper's equations as pure functions of tensors; nothing here knows fairseq."""

from fairseq_scl.losses.contrastive import (
    count_anchors_with_positive,
    self_supervised_contrastive_loss,
    supervised_contrastive_floor,
    supervised_contrastive_loss,
)

__all__ = [
    "count_anchors_with_positive",
    "self_supervised_contrastive_loss",
    "supervised_contrastive_floor",
    "supervised_contrastive_loss",
]
