"""Cross-entropy at every exit, with the deepest exit guiding the shallow ones."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_choice, option
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
    total,
)
from fairseq_scl.errors import InputError
from fairseq_scl.large_batch.gather import contrastive_batch
from fairseq_scl.models.features import unwrapped
from fairseq_scl.objectives.multi_exit.loss import OWN, cross_layer_contrastive_loss
from fairseq_scl.objectives.multi_exit.roberta_multi_exit import (
    EXIT_FEATURES,
    EXIT_LOGITS,
)

NAME = "sentence_prediction_multi_exit"
NAMED_WEIGHTS = ("equal", "depth")


@dataclass
class SentencePredictionMultiExitConfig(SentencePredictionSCLConfig):
    """The options of ``sentence_prediction_scl`` and of the exits."""

    scl_lambda: float = option(
        0.0,
        "weight of the supervised contrastive term of the top exit in (1 - lambda) * "
        "CE + lambda * SCL, CE being summed over the exits; from 0 to 1",
    )
    exit_weights: str = option(
        "equal",
        "weights of the exits below the top (whose weight is 1): equal = 1 each; depth "
        "= layer / layers; or numbers such as 0.3,0.6, lowest first (ours, not in the "
        "abstract)",
    )
    acl_cl: float = option(
        0.0,
        "weight of the term with which the deepest exit's features guide those of each "
        "exit below, contrasted by label; 0 = off (the weight is ours, not in the "
        "abstract)",
    )
    acl_cl_own: str = option(
        "positive",
        "with --acl-cl, the deepest features of the anchor's own example: positive = a "
        "positive, out = left out of both sums (ours, not in the abstract)",
    )


@register_criterion(NAME, dataclass=SentencePredictionMultiExitConfig)
class SentencePredictionMultiExitCriterion(SentencePredictionSCLCriterion):
    """L = (1-λ)·Σ_e w_e·CE_e + λ·SCL + μ·Σ_{e below the top} w_e·ACL-CL_e, w_top = 1.

    With λ = 0 and a single exit, at the top, it is the stock criterion bit for bit.
    ACL-CL follows Li and Zhu (2026), arXiv 2602.03563.
    """

    @exit_on_input_error()
    def __init__(self, cfg: SentencePredictionMultiExitConfig, task: Any) -> None:
        self.exit_weights = _read_weights(str(cfg.exit_weights))
        _check(cfg)
        super().__init__(cfg, task)
        self.acl_cl = float(cfg.acl_cl)
        self.acl_cl_own = str(cfg.acl_cl_own)

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, E, C)`` and features ``(N, E, D)`` of all E exits.

        They are ordered from the lowest exit to the top and have the dtype of the
        model, which must be ``roberta_multi_exit``.
        """
        exit_layers_of(model)
        _, extra = model(
            **net_input,
            features_only=True,
            classification_head_name=self.classification_head_name,
            exits=self.scl_features,
        )
        return extra[EXIT_LOGITS], extra[EXIT_FEATURES]

    def loss_of_outputs(
        self, model: nn.Module, sample: dict[str, Any], logits: Tensor, features: Tensor
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the same as ``forward``, for the sum over all exits."""
        top = logits[:, -1], features[:, -1]
        loss, sample_size, log = super().loss_of_outputs(model, sample, *top)
        labels = sample["target"].view(-1)
        weights = self._weights(exit_layers_of(model))
        for place, (layer, weight) in enumerate(weights.items()):
            log_probabilities = F.log_softmax(logits[:, place].float(), dim=-1)
            ce_sum = F.nll_loss(log_probabilities, labels, reduction="sum")
            loss = loss + (1 - self.scl_lambda) * weight * ce_sum
            log[f"ce_loss_exit{layer}"] = ce_sum.data
            correct = logits[:, place].argmax(dim=1) == labels
            log[f"ncorrect_exit{layer}"] = correct.sum()
        if self.acl_cl and weights:
            guided = self._guided(model, sample, features)
            terms = zip(weights.values(), guided, strict=True)
            loss = loss + self.acl_cl * sum(weight * term for weight, term in terms)
            log["acl_cl_loss"] = sum(term.data for term in guided) / len(guided)
        log["loss"] = loss.data
        return loss, sample_size, log

    def _guided(
        self, model: nn.Module, sample: dict[str, Any], features: Tensor
    ) -> list[Tensor]:
        """Return the sum over the batch of the cross-layer term of each shallow exit.

        With ``--gather-features`` the guides come from all workers.
        """
        gathers = self.gather_features and model.training
        top = features[:, -1].detach()
        guides, guide_labels, anchors = contrastive_batch(top, sample, gathers)
        return [
            cross_layer_contrastive_loss(
                features[:anchors, place],
                guides,
                guide_labels[:anchors],
                self.scl_temperature,
                self.acl_cl_own,
                guide_labels=guide_labels,
            )
            for place in range(features.shape[1] - 1)
        ]

    @exit_on_input_error()
    def _weights(self, layers: tuple[int, ...]) -> dict[int, float]:
        """Return the weight of each exit below the top, by layer."""
        *below, top = layers
        if self.exit_weights == "equal":
            return dict.fromkeys(below, 1.0)
        if self.exit_weights == "depth":
            return {layer: layer / top for layer in below}
        if len(self.exit_weights) != len(below):
            raise InputError(
                f"--exit-weights has {len(self.exit_weights)} numbers, but there are "
                f"{len(below)} exits below the top"
            )
        return dict(zip(below, map(float, self.exit_weights), strict=True))

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate the logging outputs of all workers and micro-batches.

        In addition to the parent's metrics, which (except ``loss``) are those of the
        top exit: ``ce_loss_exit2`` and ``n_correct_exit2`` for the exit after layer 2,
        and so on, and ``acl_cl_loss``, averaged over the exits below the top, in nats
        per anchor.
        """
        super().reduce_metrics(logging_outputs)
        if not (size := total(logging_outputs, "nsentences")):
            return
        for key in dict.fromkeys(key for log in logging_outputs for key in log):
            found = total(logging_outputs, key)
            if key == "acl_cl_loss" or key.startswith("ce_loss_exit"):
                metrics.log_scalar(key, found / size, size, round=4)
            elif key.startswith("ncorrect_exit"):
                metrics.log_scalar_sum(key.replace("ncorrect", "n_correct"), found)


@exit_on_input_error()
def exit_layers_of(model: Any) -> tuple[int, ...]:
    """Return the layers of a model that have an exit.

    Raises:
        InputError: the model is not ``roberta_multi_exit``.
    """
    inner = unwrapped(model)
    layers: tuple[int, ...] | None = getattr(inner, "exit_layers", None)
    if layers is None:
        raise InputError(
            "--criterion sentence_prediction_multi_exit needs --arch "
            f"roberta_multi_exit, not {type(inner).__name__}"
        )
    return layers


def _read_weights(value: str) -> str | tuple[float, ...]:
    if value in NAMED_WEIGHTS:
        return value
    try:
        weights = tuple(float(word) for word in value.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(0 <= weight < float("inf") for weight in weights):
        raise InputError(
            f"--exit-weights is {value!r}: it must be {' or '.join(NAMED_WEIGHTS)}, or "
            "numbers from 0 separated by commas"
        )
    return weights


def _check(cfg: SentencePredictionMultiExitConfig) -> None:
    if not 0 <= cfg.acl_cl < float("inf"):
        raise InputError(f"--acl-cl is {cfg.acl_cl}: it must be at least 0")
    check_choice(cfg, "acl_cl_own", OWN)
    check_choice(cfg, "scl_features", ("cls", "pooled"))
    check_choice(cfg, "class_weights", ("none",))
