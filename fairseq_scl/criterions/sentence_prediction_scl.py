"""Cross-entropy with a supervised contrastive term: Eq. 1 of Gunel et al. (2021)."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionCriterion,
)
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_gather, check_settings, check_views
from fairseq_scl.criterions.views import views_sum
from fairseq_scl.large_batch.gather import IGNORED, data_parallel_group, gather_features
from fairseq_scl.losses import (
    supervised_contrastive_floor,
    supervised_contrastive_loss,
)
from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.losses.tiles import classes_and_positives
from fairseq_scl.models.features import EXTRA_KEY, classification_features
from fairseq_scl.tasks.checks import check_class_count
from fairseq_scl.tasks.views import WITH_VIEWS

logger = logging.getLogger(__name__)


@dataclass
class SentencePredictionSCLConfig(SentencePredictionConfig):
    """The stock criterion's options, and those of the contrastive term."""

    scl_lambda: float = field(
        default=0.9,
        metadata={
            "help": "weight of the supervised contrastive term in "
            "(1 - lambda) * CE + lambda * SCL, from 0 (stock cross-entropy) to 1"
        },
    )
    scl_temperature: float = field(
        default=0.3,
        metadata={
            "help": "temperature tau > 0 of the supervised contrastive term; lower "
            "gives more weight to the examples that are hardest to separate"
        },
    )
    # Not ChoiceEnum: its refusal is a page of usage, and a traceback under Hydra.
    scl_features: str = field(
        default="cls",
        metadata={
            "help": "features that are contrasted: cls = final hidden state at <s>, "
            "pooled = input of the head's last projection"
        },
    )
    scl_reduction: str = field(
        default="mean",
        metadata={
            "help": "mean = average both terms over the batch; paper = Eq. 2 and 3 as "
            "printed, cross-entropy averaged and SCL summed over the batch"
        },
    )
    gather_features: bool = field(
        default=False,
        metadata={
            "help": "contrast each example with those of all workers, not of its own "
            "alone: the batch of the contrastive term is that of all workers together"
        },
    )
    scl_views: bool = field(
        default=False,
        metadata={
            "help": "contrast without labels: the term is Eq. 4 over two augmented "
            "views of each training example, which 'fairseq-scl prepare --views' puts "
            "into the data folder; cross-entropy stays on the example itself. "
            "Validation has no views: its loss is cross-entropy, its scl_loss is Eq. 3"
        },
    )


class _Answered:
    """Stands for a model that has answered: the stock criterion asks it for logits."""

    def __init__(self, model: nn.Module, logits: Tensor) -> None:
        self.model = model
        self.logits = logits

    def __call__(self, **_: Any) -> tuple[Tensor, dict[str, Any]]:
        return self.logits, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@register_criterion("sentence_prediction_scl", dataclass=SentencePredictionSCLConfig)
class SentencePredictionSCLCriterion(SentencePredictionCriterion):
    """L = (1 - λ)·CE + λ·SCL, Eq. 1 of Gunel et al. (2021).

    Cross-entropy, its logging and its metrics are the stock criterion's, from the same
    forward pass; λ = 0 is that criterion bit for bit.
    """

    def __init__(self, cfg: SentencePredictionSCLConfig, task: Any) -> None:
        with exit_on_input_error():
            check_settings(cfg)
            check_gather(cfg, task)
            check_views(cfg, task, type(self), SentencePredictionSCLCriterion)
            check_class_count(task)
        super().__init__(cfg, task)
        self.scl_lambda = float(cfg.scl_lambda)
        self.scl_temperature = float(cfg.scl_temperature)
        self.scl_features = str(cfg.scl_features)
        self.scl_reduction = str(cfg.scl_reduction)
        # Settings that were made before these options do not have them.
        self.gather_features = bool(getattr(cfg, "gather_features", False))
        self.scl_views = bool(getattr(cfg, "scl_views", False))
        if self.scl_lambda == 1 and self.scl_features == "cls":
            logger.warning(
                "--scl-lambda 1 with --scl-features cls gives the classification head "
                "no gradient: it keeps its random weights and accuracy stays at chance"
            )

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of one batch.

        Args:
            model: RoBERTa with the classification head, bare or wrapped.
            sample: a batch of a sentence prediction task; ``sample["target"]`` holds
                the class ids, ``(N, 1)`` or ``(N,)`` int64.
            reduce: ignored, as in the stock criterion.

        Returns:
            the loss summed over the batch, in float32 (``mean``: (1-λ)·ΣCE + λ·ΣSCL;
            ``paper``: (1-λ)·ΣCE + λ·N·ΣSCL, so that dividing by N leaves CE averaged
            and SCL summed; with ``--gather-features`` that N counts the examples of all
            workers); the sample size N by which fairseq divides; and sums for logging
            (``ce_loss``, ``scl_loss`` and ``scl_floor`` in nats).
        """
        if self.scl_views and model.training and self.scl_lambda > 0:
            outputs = self.model_outputs(model, sample[WITH_VIEWS])
            return self.loss_with_views(model, sample, *outputs)
        outputs = self.model_outputs(model, sample["net_input"])
        return self.loss_of_outputs(model, sample, *outputs)

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Pass a batch through the model.

        Args:
            model: as for ``forward``.
            net_input: ``sample["net_input"]``.

        Returns:
            logits ``(N, C)`` and classification features ``(N, D)``, in the dtype of
            the model.
        """
        head = self.classification_head_name
        with classification_features(model, head, self.scl_features):
            logits, extra = model(
                **net_input, features_only=True, classification_head_name=head
            )
        return logits, extra[EXTRA_KEY]

    def loss_of_outputs(
        self, model: nn.Module, sample: dict[str, Any], logits: Tensor, features: Tensor
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss from what the model gave; the rest of ``forward``.

        Args:
            model: as for ``forward``; not called.
            sample: the batch.
            logits: ``(N, C)``.
            features: ``(N, D)``.

        Returns:
            what ``forward`` returns.
        """
        stock = super().forward
        ce_sum, sample_size, log = stock(_Answered(model, logits), sample)
        labels = model.get_targets(sample, None).view(-1)  # type: ignore[operator]
        anchors = len(labels)
        if sample.get(IGNORED, False) and self._gathers(model):
            anchors = 0
        # With λ = 0 the term is logged but takes no part in the gradient.
        with torch.set_grad_enabled(self.scl_lambda > 0 and torch.is_grad_enabled()):
            if self._gathers(model):
                # float32: gradients of half precision would be rounded when added.
                features, labels = gather_features(
                    at_least_float32(features[:anchors]),
                    labels[:anchors],
                    data_parallel_group(),
                )
            scl_sum = self.contrastive_sum(model, features, labels, anchors, log)
        log["ce_loss"] = ce_sum.data
        log["scl_loss"] = scl_sum.data

        if self.scl_lambda == 0 or self.scl_views:
            return ce_sum, sample_size, log
        weight = len(labels) if self.scl_reduction == "paper" else 1
        kept = self.kept(scl_sum, model, sample, log)
        loss = (1 - self.scl_lambda) * ce_sum + self.scl_lambda * weight * kept
        log["loss"] = loss.data
        return loss, sample_size, log

    def loss_with_views(
        self, model: nn.Module, sample: dict[str, Any], logits: Tensor, features: Tensor
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of ``--scl-views``: (1-λ)·CE + λ·Eq. 4.

        Args:
            model: as for ``forward``; not called.
            sample: the batch of N examples.
            logits: ``(3N, C)``, of which the first N count.
            features: ``(3N, D)``: of the examples, of their first and second views.

        Returns:
            what ``forward`` returns, with Eq. 4 summed over the 2N views and halved in
            the place of Eq. 3 (``paper``: 2N times that, so that Eq. 4 stays summed).
        """
        size = len(sample["target"])
        answer = _Answered(model, logits[:size])
        ce_sum, sample_size, log = super().forward(answer, sample)
        scl_sum = views_sum(features[size:], self.scl_temperature, log)
        weight = 2 * size if self.scl_reduction == "paper" else 1
        loss = (1 - self.scl_lambda) * ce_sum + self.scl_lambda * weight * scl_sum
        log |= {"ce_loss": ce_sum.data, "scl_loss": scl_sum.data, "loss": loss.data}
        return loss, sample_size, log

    def contrastive_sum(
        self,
        model: nn.Module,
        features: Tensor,
        labels: Tensor,
        anchors: int,
        log: dict[str, Any],
    ) -> Tensor:
        """Sum Eq. 3 over the anchors, and log its floor; a subclass may add rows.

        Args:
            model: as for ``forward``; not called.
            features: ``(N, D)``, of all workers with ``--gather-features``.
            labels: ``(N,)``.
            anchors: n, the first rows, those of this worker.
            log: gets ``scl_floor`` and ``scl_anchors``.

        Returns:
            a scalar.
        """
        tau = self.scl_temperature
        scl_sum = supervised_contrastive_loss(features, labels, tau, anchors=anchors)
        log["scl_floor"] = supervised_contrastive_floor(labels, tau, anchors=anchors)
        positives = classes_and_positives(labels, anchors)[1]
        log["scl_anchors"] = positives.count_nonzero()
        return scl_sum

    def kept(
        self,
        scl_sum: Tensor,
        model: nn.Module,
        sample: dict[str, Any],
        log: dict[str, Any],
    ) -> Tensor:
        """Return what of the contrastive term stays in the loss: all, but in ACL."""
        return scl_sum

    def _gathers(self, model: nn.Module) -> bool:
        """Tell whether other workers are asked: not in validation.

        There they may have different numbers of batches.
        """
        return self.gather_features and model.training

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate the logging outputs of all workers and micro-batches.

        Beside the stock metrics: ``ce_loss``, ``scl_loss`` and ``scl_floor``, averages
        over examples in nats; ``scl_anchors``, the share of anchors that have a
        positive; ``n_correct`` and ``n_total``, exact counts.
        """
        SentencePredictionCriterion.reduce_metrics(logging_outputs)
        total = _sum(logging_outputs, "nsentences")
        if not total:
            return
        for key in ("ce_loss", "scl_loss", "scl_floor", "scl_anchors"):
            metrics.log_scalar(key, _sum(logging_outputs, key) / total, total, round=4)
        metrics.log_scalar_sum("n_correct", _sum(logging_outputs, "ncorrect"))
        metrics.log_scalar_sum("n_total", total)


def _sum(logging_outputs: list[dict[str, Any]], key: str) -> Any:
    return sum(log.get(key, 0) for log in logging_outputs)
