"""``--scl-views``: the self-supervised contrast of Eq. 4, Gunel et al. (2021)."""

from typing import Any

import torch
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from torch import Tensor, nn

from fairseq_scl.criterions.precomputed import PrecomputedLogits
from fairseq_scl.criterions.protocol import WITH_VIEWS, require_task
from fairseq_scl.errors import InputError
from fairseq_scl.losses import (
    self_supervised_contrastive_loss,
    supervised_contrastive_floor,
)


def check_views(cfg: Any, task: Any, criterion: type, allowed: type) -> None:
    """Refuse ``--scl-views`` with a task or a criterion that does not support it.

    Only the class ``allowed`` itself supports it, not its subclasses.

    Raises:
        InputError: names the option that cannot be combined with ``--scl-views``.
    """
    if criterion is not allowed:
        raise InputError(
            "--scl-views needs --criterion sentence_prediction_scl, not "
            f"{criterion.__name__}"
        )
    require_task("--scl-views", task)
    if cfg.gather_features:
        raise InputError(
            "--gather-features cannot be combined with --scl-views: each worker "
            "contrasts the views of its own examples"
        )
    if task.cfg.chunk:
        raise InputError(
            f"--chunk {task.cfg.chunk} cannot be combined with --scl-views, whose "
            "batches are computed in one pass"
        )


def loss_with_views(
    criterion: Any, model: nn.Module, sample: dict[str, Any]
) -> tuple[Tensor, int, dict[str, Any]]:
    """Compute (1-λ)·CE + λ·Eq. 4 of a training batch.

    Args:
        criterion: ``sentence_prediction_scl``.
        model: as for its ``forward``.
        sample: a batch of N examples with their views; a single forward pass computes
            all 3N rows.

    Returns:
        the same as ``forward``. The contrastive term is half the sum of Eq. 4 over the
        2N views, which has the scale of a sum over N anchors, as in Eq. 3; with
        ``paper`` it is 2N times that, so that Eq. 4 stays summed when fairseq divides
        by N. The logged sums have the scale of N anchors.
    """
    logits, features = criterion.model_outputs(model, sample[WITH_VIEWS])
    size, tau = len(sample["target"]), criterion.scl_temperature
    ce_sum, sample_size, log = SentencePredictionCriterion.forward(
        criterion, PrecomputedLogits(model, logits[:size]), sample
    )
    first, second = features[size:].chunk(2)
    scl_sum = self_supervised_contrastive_loss(first, second, tau) / 2
    weight = 2 * size if criterion.scl_reduction == "paper" else 1
    loss = (1 - criterion.scl_lambda) * ce_sum + criterion.scl_lambda * weight * scl_sum
    example = torch.arange(size, device=features.device).repeat(2)
    log |= {
        "loss": loss.data,
        "ce_loss": ce_sum.data,
        "scl_loss": scl_sum.data,
        "scl_floor": supervised_contrastive_floor(example, tau) / 2,
        "scl_anchors": torch.tensor(size, device=features.device),
    }
    return loss, sample_size, log
