"""Cross-entropy with aligned contrastive learning, after ACL (arXiv 2602.03563)."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.learned import LearnsParameters, check_own_task
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
)
from fairseq_scl.errors import InputError
from fairseq_scl.large_batch.gather import IGNORED, data_parallel_group
from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.losses.tiles import classes_and_positives
from fairseq_scl.models.features import EXTRA_KEY, classification_features, unwrapped
from fairseq_scl.objectives.acl.jacobian import JACOBIAN, logit_jacobian
from fairseq_scl.objectives.acl.loss import (
    LABEL_ANCHORS,
    cross_entropy_gradient,
    gradient_conflict,
    gradient_products,
    join_label_embeddings,
)

NAME = "sentence_prediction_acl"
# Key of a batch: its features, and the gradient of the cross-entropy at them.
_GRADIENT = "gradient_of_cross_entropy"


@dataclass
class SentencePredictionACLConfig(SentencePredictionSCLConfig):
    """The options of the contrastive term, and those of ACL."""

    acl_embed: bool = field(
        default=False,
        metadata={
            "help": "ACL-Embed: label embeddings join the batch of the contrastive "
            "term as samples with their labels; rows of the head's last projection "
            "with --scl-features pooled, a table that the criterion learns with cls "
            "(which of the two: ours, not in the abstract)"
        },
    )
    acl_anchors: str = field(
        default="all",
        metadata={
            "help": "with --acl-embed: all = label embeddings are anchors too, as any "
            "sample is; samples = they are candidates alone (ours, not in the abstract)"
        },
    )
    acl_embed_std: float = field(
        default=0.02,
        metadata={
            "help": "with --acl-embed and --scl-features cls: standard deviation of "
            "the label embeddings at the start; smaller ones turn faster (ours, not in "
            "the abstract)"
        },
    )
    acl_grad: bool = field(
        default=False,
        metadata={
            "help": "ACL-Grad: leave the contrastive term out of a training batch "
            "whose gradients of cross-entropy and of that term, at the features, have "
            "a negative inner product; over all workers together, for each batch of "
            "--update-freq by itself (where it is measured: ours, not in the abstract)"
        },
    )


@register_criterion(NAME, dataclass=SentencePredictionACLConfig)
class SentencePredictionACLCriterion(LearnsParameters, SentencePredictionSCLCriterion):
    """L = (1 - λ)·CE + λ·SCL', after ACL-Embed and ACL-Grad of Li and Zhu (2026).

    SCL' is the contrastive term with label embeddings in the batch, and 0 where its
    gradient conflicts with that of CE. Without ``--acl-embed`` and ``--acl-grad`` it is
    ``sentence_prediction_scl``.
    """

    def __init__(self, cfg: SentencePredictionACLConfig, task: Any) -> None:
        with exit_on_input_error():
            check_own_task(NAME, task)
            _check(cfg)
        super().__init__(cfg, task)
        self.acl_embed = bool(cfg.acl_embed)
        self.acl_anchors = str(cfg.acl_anchors)
        self.acl_grad = bool(cfg.acl_grad)
        self.label_embeddings: nn.Parameter | None = None
        if self.acl_embed and self.scl_features == "cls":
            with torch.random.fork_rng(devices=[]):  # dropout's draws stay as they are
                rows = torch.randn(task.cfg.num_classes, task.encoder_embed_dim)
            self.label_embeddings = nn.Parameter(rows * float(cfg.acl_embed_std))

    @property
    def reads_parameters(self) -> bool:
        """Whether the loss reads parameters themselves, beside the model's outputs."""
        return self.acl_embed

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Pass a batch through the model.

        Args:
            model: as for ``forward``.
            net_input: ``sample["net_input"]``.

        Returns:
            logits ``(N, C)``, features ``(N, D)``, and in training with ``--acl-grad``
            the derivative of the logits at the features, ``(N, C, D)``.
        """
        if not (self.acl_grad and self.scl_lambda and model.training):
            return super().model_outputs(model, net_input)
        head = self.classification_head_name
        with ExitStack() as stack:
            for hook in (classification_features, logit_jacobian):
                stack.enter_context(hook(model, head, self.scl_features))
            logits, extra = model(
                **net_input, features_only=True, classification_head_name=head
            )
        return logits, extra[EXTRA_KEY], extra[JACOBIAN]

    def loss_of_outputs(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        logits: Tensor,
        features: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss from what the model gave; the rest of ``forward``.

        Args:
            model: as for ``forward``; not called.
            sample: the batch.
            logits: ``(N, C)``.
            features: ``(N, D)``.
            others: the derivative of the logits, ``(N, C, D)``, or nothing.

        Returns:
            what ``forward`` returns.
        """
        if others:
            # float32: the gradient at the features is not scaled.
            features = at_least_float32(features)
            labels = model.get_targets(sample, None).view(-1)  # type: ignore[operator]
            gradient = cross_entropy_gradient(logits, labels, others[0])
            sample = {**sample, _GRADIENT: (features, gradient)}
        return super().loss_of_outputs(model, sample, logits, features)

    def contrastive_sum(
        self,
        model: nn.Module,
        features: Tensor,
        labels: Tensor,
        anchors: int,
        log: dict[str, Any],
    ) -> Tensor:
        """Sum Eq. 3 with the label embeddings in the batch.

        With ``--scl-reduction mean`` the sum is scaled by N / (number of anchors), so
        that dividing it by N gives the mean over anchors.

        Args:
            model: holds the label embeddings with ``--scl-features pooled``.
            features: ``(N, D)``, of all workers with ``--gather-features``.
            labels: ``(N,)``.
            anchors: the first rows, those of this worker.
            log: gets ``scl_floor`` and ``scl_anchors``.

        Returns:
            a scalar.
        """
        if not self.acl_embed:
            return super().contrastive_sum(model, features, labels, anchors, log)
        embeddings = self.label_embeddings
        if embeddings is None:
            head = unwrapped(model).classification_heads[self.classification_head_name]
            embeddings = head.out_proj.weight
        rows, classes = join_label_embeddings(features, labels, embeddings, anchors)
        added = len(embeddings) if self.acl_anchors == "all" else 0
        # The workers' sums add up: each embedding is an anchor once.
        group = data_parallel_group() if self._gathers(model) else None
        first = group is None or dist.get_rank(group) == 0
        own = anchors + (added if first else 0)
        scl_sum = super().contrastive_sum(model, rows, classes, own, log)
        share = len(labels) / max(len(labels) + added, 1)
        positives = classes_and_positives(classes, own)[1]
        log["scl_anchors"] = positives.count_nonzero() * share
        if self.scl_reduction == "paper":
            return scl_sum
        log["scl_floor"] = log["scl_floor"] * share
        return scl_sum * share

    def kept(
        self,
        scl_sum: Tensor,
        model: nn.Module,
        sample: dict[str, Any],
        log: dict[str, Any],
    ) -> Tensor:
        """Multiply the contrastive term by 0 if it conflicts with the cross-entropy.

        Each worker adds its share of the inner product, so that all come to the same
        decision; nothing is asked of a device.

        Args:
            scl_sum: the term, a scalar.
            model: as for ``forward``; not called.
            sample: the batch, with what ``loss_of_outputs`` put in.
            log: gets ``acl_steps``, ``acl_conflicts`` and ``acl_cosine``.

        Returns:
            a scalar.
        """
        if _GRADIENT not in sample:  # validation, or no --acl-grad
            return scl_sum
        features, of_ce = sample[_GRADIENT]
        (of_scl,) = torch.autograd.grad(scl_sum, features, retain_graph=True)
        products = gradient_products(of_ce, of_scl)
        if sample.get(IGNORED, False):
            products = torch.zeros_like(products)
        if (group := data_parallel_group()) is not None:
            dist.all_reduce(products, group=group)
        conflict, cosine = gradient_conflict(products)
        log["acl_steps"] = 1
        log["acl_conflicts"] = conflict.long()
        log["acl_cosine"] = cosine.float()
        return scl_sum * (~conflict).to(scl_sum.dtype)

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate as the contrastive criterion does, and what ACL-Grad decided.

        ``acl_conflict``: share of the batches whose contrastive term was left out;
        ``acl_cosine``: mean cosine of the two gradients.
        """
        super().reduce_metrics(logging_outputs)
        steps = sum(log.get("acl_steps", 0) for log in logging_outputs)
        if not steps:
            return
        for name, key in (("conflict", "acl_conflicts"), ("cosine", "acl_cosine")):
            total = sum(log.get(key, 0) for log in logging_outputs)
            metrics.log_scalar(f"acl_{name}", total / steps, steps, round=4)


def _check(cfg: SentencePredictionACLConfig) -> None:
    if str(cfg.acl_anchors) not in LABEL_ANCHORS:
        raise InputError(
            f"--acl-anchors is {cfg.acl_anchors!r}: it must be one of "
            f"{', '.join(LABEL_ANCHORS)}"
        )
    if not 0 < cfg.acl_embed_std < float("inf"):
        raise InputError(f"--acl-embed-std is {cfg.acl_embed_std}: it must be above 0")
    if cfg.acl_grad and cfg.scl_lambda == 1:
        raise InputError(
            "--acl-grad does not go with --scl-lambda 1: there is no cross-entropy "
            "that the contrastive term could conflict with"
        )
