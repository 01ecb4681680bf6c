"""Cross-entropy with a supervised contrastive term: Eq. 1 of Gunel et al. (2021).

Your own criterion can subclass this one: override ``model_outputs`` to get more from
the model, ``contrastive_term`` to change Eq. 3, ``loss_of_outputs`` to add terms, and
``before_update`` to prepare a step (see :mod:`fairseq_scl.criterions.protocol`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionCriterion,
)
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_settings, option
from fairseq_scl.criterions.class_weights import (
    balanced_weights,
    weighted_cross_entropy,
)
from fairseq_scl.criterions.precomputed import PrecomputedLogits
from fairseq_scl.criterions.self_supervised import check_views, loss_with_views
from fairseq_scl.input_format import note_input_format
from fairseq_scl.large_batch.gather import contrastive_batch
from fairseq_scl.losses import supervised_contrastive_floor, supervised_contrastive_loss
from fairseq_scl.losses.tiles import classes_and_positives
from fairseq_scl.models.features import EXTRA_KEY, classification_features


@dataclass
class SentencePredictionSCLConfig(SentencePredictionConfig):
    """The options of the stock criterion and of the contrastive term."""

    scl_lambda: float = option(
        0.9,
        "weight of the supervised contrastive term in (1 - lambda) * CE + lambda * "
        "SCL, from 0 (stock cross-entropy) to 1",
    )
    scl_temperature: float = option(
        0.3,
        "temperature tau of the supervised contrastive term, from 1e-6 to 1e6; lower "
        "gives more weight to the examples that are hardest to separate",
    )
    scl_features: str = option(
        "cls",
        "features that are contrasted: cls = final hidden state at <s>, mean = mean of "
        "the final hidden states over the tokens, pooled = input of the head's last "
        "projection",
    )
    scl_reduction: str = option(
        "mean",
        "mean = average both terms over the batch; paper = Eq. 2 and 3 as printed, "
        "cross-entropy averaged and SCL summed over the batch",
    )
    gather_features: bool = option(
        False,
        "compute the contrastive term over the batches of all workers together, not "
        "over each worker's own batch",
    )
    class_weights: str = option(
        "none",
        "weights of the training examples in cross-entropy: none, or balanced = N / (C "
        "* N_c) for N examples in C classes, N_c of them in its own; the contrastive "
        "term and validation have no weights",
    )
    scl_views: bool = option(
        False,
        "self-supervised contrast: the term is Eq. 4 over two augmented views of each "
        "training example, added to the data folder by 'fairseq-scl prepare --views'; "
        "cross-entropy still uses the example itself. Validation does not use views: "
        "its loss is cross-entropy, its scl_loss is Eq. 3",
    )
    train_subset: str = II("dataset.train_subset")


@register_criterion("sentence_prediction_scl", dataclass=SentencePredictionSCLConfig)
class SentencePredictionSCLCriterion(SentencePredictionCriterion):
    """L = (1 - λ)·CE + λ·SCL, Eq. 1 of Gunel et al. (2021).

    Cross-entropy, its logging and its metrics are the stock criterion's, computed from
    the same forward pass. With λ = 0 it equals the stock criterion bit for bit.
    """

    @exit_on_input_error()
    def __init__(self, cfg: SentencePredictionSCLConfig, task: Any) -> None:
        check_settings(cfg, task)
        if cfg.scl_views:
            check_views(cfg, task, type(self), SentencePredictionSCLCriterion)
        super().__init__(cfg, task)
        note_input_format(task)  # for the stock task, which does not do it itself
        self.scl_lambda = float(cfg.scl_lambda)
        self.scl_temperature = float(cfg.scl_temperature)
        self.scl_features = str(cfg.scl_features)
        self.scl_reduction = str(cfg.scl_reduction)
        self.gather_features = bool(cfg.gather_features)
        self.scl_views = bool(cfg.scl_views)
        self.train_subset = str(cfg.train_subset)
        self.balances_classes = cfg.class_weights == "balanced"

    @cached_property
    @exit_on_input_error()
    def class_weights(self) -> Tensor | None:
        """Weights of the classes, ``(C,)``, or ``None``; only training reads them."""
        if not self.balances_classes:
            return None
        return balanced_weights(self.task, self.train_subset)

    def before_update(self, model: nn.Module, update: int) -> None:
        """Prepare a training step; does nothing here."""

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of one batch.

        Args:
            model: RoBERTa with the classification head, bare or wrapped.
            sample: a batch of a sentence prediction task; ``sample["target"]`` has the
                class ids, ``(N, 1)`` or ``(N,)`` int64.
            reduce: ignored, as in the stock criterion.

        Returns:
            the loss summed over the batch, a scalar in float32: (1-λ)·ΣCE + λ·ΣSCL for
            ``mean``. For ``paper`` it is (1-λ)·ΣCE + λ·N·ΣSCL, so that dividing by N
            leaves CE averaged and SCL summed; with ``--gather-features``, the factor N
            counts the examples of all workers. Then the sample size N, by which fairseq
            divides, and sums for logging (``ce_loss``, ``scl_loss`` and ``scl_floor``
            in nats).
        """
        if self.scl_views and self.scl_lambda > 0 and model.training:
            return loss_with_views(self, model, sample)
        outputs = self.model_outputs(model, sample["net_input"])
        return self.loss_of_outputs(model, sample, *outputs)

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Return logits ``(N, C)`` and features ``(N, D)``."""
        logits, extra = self.forward_pass(model, net_input)
        return logits, extra[EXTRA_KEY]

    def forward_pass(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits ``(N, C)`` and the model's ``extra`` with the features."""
        head = self.classification_head_name
        with classification_features(model, head, self.scl_features):
            output: tuple[Tensor, dict[str, Any]] = model(
                **net_input, features_only=True, classification_head_name=head
            )
        return output

    def loss_of_outputs(
        self, model: nn.Module, sample: dict[str, Any], logits: Tensor, features: Tensor
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return Eq. 1 in the form of ``forward``, from the ``model_outputs``."""
        stock = super().forward
        ce_sum, sample_size, log = stock(PrecomputedLogits(model, logits), sample)
        if model.training and self.class_weights is not None:
            labels = sample["target"].view(-1)
            ce_sum = weighted_cross_entropy(logits, labels, self.class_weights)
            log["loss"] = ce_sum.data
        log["ce_loss"] = ce_sum.data
        # With λ = 0 the term is only logged.
        with torch.set_grad_enabled(self.scl_lambda > 0 and torch.is_grad_enabled()):
            scl_sum, size = self.contrastive_term(model, sample, features, log)
        if self.scl_lambda == 0 or self.scl_views:
            return ce_sum, sample_size, log
        weight = size if self.scl_reduction == "paper" else 1
        loss = (1 - self.scl_lambda) * ce_sum + self.scl_lambda * weight * scl_sum
        log["loss"] = loss.data
        return loss, sample_size, log

    def contrastive_term(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        features: Tensor,
        log: dict[str, Any],
    ) -> tuple[Tensor, int]:
        """Sum Eq. 3 over the features ``(N, D)`` of this worker's examples.

        ``log`` gets ``scl_loss``, ``scl_floor`` and ``scl_anchors``.

        Returns:
            a scalar, and the number of examples in the contrasted batch.
        """
        # Never in validation, where workers may have different numbers of batches.
        gathers = self.gather_features and model.training
        rows, labels, anchors = contrastive_batch(features, sample, gathers)
        return self.contrastive_sum(rows, labels, anchors, log), len(labels)

    def contrastive_sum(
        self, features: Tensor, labels: Tensor, anchors: int, log: dict[str, Any]
    ) -> Tensor:
        """Sum Eq. 3 over the first rows; log the sum, its floor and its anchors."""
        tau = self.scl_temperature
        scl_sum = supervised_contrastive_loss(features, labels, tau, anchors=anchors)
        log["scl_loss"] = scl_sum.data
        log["scl_floor"] = supervised_contrastive_floor(labels, tau, anchors=anchors)
        positives = classes_and_positives(labels, anchors)[1]
        log["scl_anchors"] = positives.count_nonzero()
        return scl_sum

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate the logging outputs of all workers and micro-batches.

        In addition to the stock metrics: ``ce_loss``, ``scl_loss`` and ``scl_floor``,
        averaged over examples, in nats; ``scl_anchors``, the share of anchors with a
        positive; ``n_correct`` and ``n_total``, exact counts.
        """
        SentencePredictionCriterion.reduce_metrics(logging_outputs)
        if not (size := total(logging_outputs, "nsentences")):
            return
        for key in ("ce_loss", "scl_loss", "scl_floor", "scl_anchors"):
            mean = total(logging_outputs, key) / size
            metrics.log_scalar(key, mean, size, round=4)
        metrics.log_scalar_sum("n_correct", total(logging_outputs, "ncorrect"))
        metrics.log_scalar_sum("n_total", size)


def total(logging_outputs: list[dict[str, Any]], key: str) -> Any:
    """Sum a value over the logging outputs that have it."""
    return sum(log.get(key, 0) for log in logging_outputs)
