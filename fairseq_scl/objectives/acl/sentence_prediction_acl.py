"""Cross-entropy with aligned contrastive learning, after ACL (arXiv 2602.03563)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_choice, option
from fairseq_scl.criterions.learned import LearnsParameters
from fairseq_scl.criterions.protocol import IGNORED, require_task
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
    total,
)
from fairseq_scl.errors import InputError
from fairseq_scl.large_batch.gather import contrastive_batch, data_parallel_group
from fairseq_scl.losses.shared import at_least_float32
from fairseq_scl.models.features import EXTRA_KEY, unwrapped
from fairseq_scl.objectives.acl.jacobian import JACOBIAN, logit_jacobian
from fairseq_scl.objectives.acl.loss import (
    LABEL_ANCHORS,
    cross_entropy_gradient,
    gradient_conflict,
    gradient_products,
    join_label_embeddings,
)

NAME = "sentence_prediction_acl"
# Key of a batch: its features and the gradient of the cross-entropy at them.
_GRADIENT = "gradient_of_cross_entropy"


@dataclass
class SentencePredictionACLConfig(SentencePredictionSCLConfig):
    """The options of the contrastive term and of ACL."""

    acl_embed: bool = option(
        False,
        "ACL-Embed: add label embeddings to the batch of the contrastive term as "
        "examples with their labels: the rows of the head's last projection with "
        "--scl-features pooled, or a table that the criterion learns otherwise (this "
        "choice: ours, not in the abstract)",
    )
    acl_anchors: str = option(
        "all",
        "with --acl-embed: all = label embeddings are also anchors, like any example; "
        "samples = they are only candidates (ours, not in the abstract)",
    )
    acl_embed_std: float = option(
        0.02,
        "with --acl-embed and --scl-features cls or mean: initial standard deviation "
        "of the label embeddings; smaller ones change direction faster (ours, not in "
        "the abstract)",
    )
    acl_grad: bool = option(
        False,
        "ACL-Grad: drop the contrastive term of a training batch if its gradient at "
        "the features has a negative inner product with that of cross-entropy; decided "
        "over all workers together and separately for each batch of --update-freq "
        "(where it is measured: ours, not in the abstract)",
    )


@register_criterion(NAME, dataclass=SentencePredictionACLConfig)
class SentencePredictionACLCriterion(LearnsParameters, SentencePredictionSCLCriterion):
    """L = (1 - λ)·CE + λ·SCL', after ACL-Embed and ACL-Grad of Li and Zhu (2026).

    SCL' is the contrastive term with label embeddings in the batch, and 0 where its
    gradient conflicts with that of CE. Without ``--acl-embed`` and ``--acl-grad`` it is
    ``sentence_prediction_scl``.
    """

    @exit_on_input_error()
    def __init__(self, cfg: SentencePredictionACLConfig, task: Any) -> None:
        require_task(f"--criterion {NAME}", task)
        _check(cfg)
        super().__init__(cfg, task)
        self.acl_embed = bool(cfg.acl_embed)
        self.acl_anchors = str(cfg.acl_anchors)
        self.acl_grad = bool(cfg.acl_grad)
        self.label_embeddings: nn.Parameter | None = None
        if self.acl_embed and self.scl_features != "pooled":
            with torch.random.fork_rng(devices=[]):  # keep the random state for dropout
                rows = torch.randn(task.cfg.num_classes, task.encoder_embed_dim)
            self.label_embeddings = nn.Parameter(rows * float(cfg.acl_embed_std))

    @exit_on_input_error()
    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Return logits ``(N, C)`` and features ``(N, D)``.

        In training with ``--acl-grad``, also return the derivative of the logits at the
        features, ``(N, C, D)``.
        """
        if not (self.acl_grad and self.scl_lambda and model.training):
            return super().model_outputs(model, net_input)
        with logit_jacobian(model, self.classification_head_name, self.scl_features):
            logits, extra = self.forward_pass(model, net_input)
        return logits, extra[EXTRA_KEY], extra[JACOBIAN]

    def loss_of_outputs(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        logits: Tensor,
        features: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the same as ``forward``, from ``model_outputs``."""
        if others:
            # float32, because the gradient at the features is not scaled
            features = at_least_float32(features)
            labels = sample["target"].view(-1)
            gradient = cross_entropy_gradient(
                logits, labels, others[0], self.class_weights
            )
            sample = {**sample, _GRADIENT: (features, gradient)}
        return super().loss_of_outputs(model, sample, logits, features)

    def contrastive_term(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        features: Tensor,
        log: dict[str, Any],
    ) -> tuple[Tensor, int]:
        """Sum Eq. 3 with the label embeddings in the batch; 0 where it conflicts.

        With ``--scl-reduction mean`` the sum is scaled by N / (number of anchors), so
        that dividing it by N gives the mean over anchors. The values that are logged
        are those before the gate. Arguments and results are the parent's.
        """
        gathers = self.gather_features and model.training
        rows, labels, anchors = contrastive_batch(features, sample, gathers)
        if self.acl_embed:
            embeddings = self.label_embeddings
            if embeddings is None:
                heads = unwrapped(model).classification_heads
                embeddings = heads[self.classification_head_name].out_proj.weight
            rows, classes = join_label_embeddings(rows, labels, embeddings, anchors)
            added = len(embeddings) if self.acl_anchors == "all" else 0
            # The workers' sums add up: each embedding is an anchor once.
            group = data_parallel_group() if gathers else None
            anchors += added if group is None or dist.get_rank(group) == 0 else 0
            scl_sum = self.contrastive_sum(rows, classes, anchors, log)
            share = len(labels) / max(len(labels) + added, 1)
            log["scl_anchors"] = log["scl_anchors"] * share
            if self.scl_reduction == "mean":
                scl_sum = scl_sum * share
                log |= {"scl_loss": scl_sum.data, "scl_floor": log["scl_floor"] * share}
        else:
            scl_sum = self.contrastive_sum(rows, labels, anchors, log)
        if _GRADIENT in sample:  # training with --acl-grad
            scl_sum = scl_sum * self._gate(scl_sum, sample, log)
        return scl_sum, len(labels)

    def _gate(
        self, scl_sum: Tensor, sample: dict[str, Any], log: dict[str, Any]
    ) -> Tensor:
        """Return 0 if the contrastive term conflicts with the cross-entropy, else 1.

        Each worker adds its share of the inner product, so that all make the same
        decision. This does not need a device sync.
        """
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
        return (~conflict).to(scl_sum.dtype)

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate like the contrastive criterion, plus the decisions of ACL-Grad.

        ``acl_conflict``: share of the batches whose contrastive term was dropped;
        ``acl_cosine``: mean cosine of the two gradients.
        """
        super().reduce_metrics(logging_outputs)
        if not (steps := total(logging_outputs, "acl_steps")):
            return
        for name, key in (("conflict", "acl_conflicts"), ("cosine", "acl_cosine")):
            mean = total(logging_outputs, key) / steps
            metrics.log_scalar(f"acl_{name}", mean, steps, round=4)


def _check(cfg: SentencePredictionACLConfig) -> None:
    check_choice(cfg, "acl_anchors", LABEL_ANCHORS)
    if not 0 < cfg.acl_embed_std < float("inf"):
        raise InputError(f"--acl-embed-std is {cfg.acl_embed_std}: it must be above 0")
    if cfg.acl_grad and cfg.scl_lambda == 1:
        raise InputError(
            "--acl-grad cannot be combined with --scl-lambda 1: there is no "
            "cross-entropy that the contrastive term could conflict with"
        )
