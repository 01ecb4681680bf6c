"""Cross-entropy with representation consistency targets, after CAPCORT."""

from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_choice, option
from fairseq_scl.criterions.learned import LearnsParameters
from fairseq_scl.criterions.protocol import require_task
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
    total,
)
from fairseq_scl.errors import InputError
from fairseq_scl.models.features import EXTRA_KEY, classification_features
from fairseq_scl.models.pooling import POOLINGS
from fairseq_scl.objectives.capcort.loss import representation_consistency_loss
from fairseq_scl.objectives.capcort.pretrained import (
    STATES_KEY,
    frozen_copy,
    pretrained_states,
    stored_states,
)

NAME = "sentence_prediction_capcort"
MAPS = ("identity", "mlp")
TARGETS = ("stored", "encoder")
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


@dataclass
class SentencePredictionCapcortConfig(SentencePredictionSCLConfig):
    """The options of the contrastive term (off by default) and of CAPCORT."""

    scl_lambda: float = option(
        0.0,
        "weight of the supervised contrastive term, from 0 to 1, in addition to that "
        "of the consistency term: (1 - scl_lambda) * CE + scl_lambda * SCL + "
        "capcort_lambda * consistency",
    )
    capcort_lambda: float = option(
        0.01,
        "weight, 0 (stock cross-entropy) or above, of the consistency term, the mean "
        "over the batch of ||z_pre - phi(z_fine)||^2 (the default: ours, not in the "
        "abstract)",
    )
    capcort_map: str = option(
        "identity",
        "phi: identity, or mlp = a small network that is trained with the model and is "
        "not part of the classifier",
    )
    capcort_features: str = option(
        "cls",
        "z: cls = final state at <s>, mean = mean of the final states of all real "
        "tokens (ours, not in the abstract)",
    )
    capcort_targets: str = option(
        "stored",
        "z_pre: stored = computed once for the whole training set before the first "
        "update (memory: examples x dimensions); encoder = computed for each batch by "
        "a second, frozen encoder (ours, not in the abstract)",
    )
    capcort_pretrained: str = option(
        "",
        "checkpoint of the encoder that z_pre comes from; by default the model before "
        "the first update, that of --finetune-from-model; required when resuming a run "
        "(ours, not in the abstract)",
    )
    capcort_mlp_width: int = option(
        0,
        "dimensions of the mlp's hidden layers, 0 = same as the encoder (ours, not in "
        "the abstract)",
    )
    capcort_mlp_layers: int = option(
        1,
        "hidden layers of the mlp (ours, not in the abstract)",
    )
    capcort_mlp_activation: str = option(
        "tanh",
        "after each hidden layer of the mlp: tanh, relu or gelu (ours, not in the "
        "abstract)",
    )


@register_criterion(NAME, dataclass=SentencePredictionCapcortConfig)
class SentencePredictionCapcortCriterion(
    LearnsParameters, SentencePredictionSCLCriterion
):
    """L = (1 - λ)·CE + λ·SCL + λ_c·mean ‖z_pre - φ(z_fine)‖², after CAPCORT.

    CAPCORT is "Improving language models fine-tuning with representation consistency
    targets" (Razdaibiedina et al. 2022, arXiv 2205.11603). The consistency term is only
    computed in training; validation logs the other terms. λ_c = 0 is
    ``sentence_prediction_scl``, and with λ = 0 as well it is the stock criterion.
    """

    @exit_on_input_error()
    def __init__(self, cfg: SentencePredictionCapcortConfig, task: Any) -> None:
        require_task(f"--criterion {NAME}", task)
        _check(cfg, task)
        super().__init__(cfg, task)
        self.capcort_lambda = float(cfg.capcort_lambda)
        self.capcort_features = str(cfg.capcort_features)
        self.capcort_targets = str(cfg.capcort_targets)
        self.capcort_pretrained = str(cfg.capcort_pretrained)
        self.phi: nn.Module = nn.Identity()
        if cfg.capcort_map == "mlp":
            with torch.random.fork_rng(devices=[]):  # keep the random state for dropout
                self.phi = _mlp(cfg, task.encoder_embed_dim)
        # Not submodules, so they are not trained, saved or cast to half precision.
        self._table: list[Tensor] = []
        self._encoder: list[nn.Module] = []

    def before_update(self, model: nn.Module, update: int) -> None:
        """Take z_pre from the model before its first update; called by the task.

        Raises:
            InputError: the model is already partly fine-tuned, or the checkpoint of the
                encoder does not match.
        """
        if self.capcort_lambda == 0 or self._table or self._encoder:
            return
        if update > 0 and not self.capcort_pretrained:
            raise InputError(
                f"the run resumes after {update} updates, but z_pre comes from the "
                "encoder before the first one: pass its checkpoint as "
                "--capcort-pretrained"
            )
        held = frozen_copy(model, self.capcort_pretrained)
        if self.capcort_targets == "encoder":
            self._encoder.append(held)
            return
        self._table.append(
            stored_states(
                held,
                _training_set(self.task, self.train_subset),
                self.classification_head_name,
                self.capcort_features,
                self.task.max_positions(),
            )
        )

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Return logits ``(N, C)``, features ``(N, D)``, and z ``(N, D)`` in training.

        z is z_fine and, with ``--capcort-targets encoder``, also z_pre.
        """
        if not (self.capcort_lambda and model.training):
            return super().model_outputs(model, net_input)
        head, kind = self.classification_head_name, self.capcort_features
        with classification_features(model, head, kind, STATES_KEY):
            logits, extra = self.forward_pass(model, net_input)
        outputs = logits, extra[EXTRA_KEY], extra[STATES_KEY]
        if not self._encoder:
            return outputs
        return *outputs, pretrained_states(self._encoder[0], net_input, head, kind)

    def loss_of_outputs(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        logits: Tensor,
        features: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the same as ``forward``, including the sum of the consistency term.

        ``others`` are z_fine and possibly z_pre, each ``(N, D)``; empty in validation.
        """
        loss, size, log = super().loss_of_outputs(model, sample, logits, features)
        if not others:
            return loss, size, log
        fine = others[0]
        for parameter in self.phi.parameters():  # float32, even if the model is half
            fine = fine.to(parameter.dtype)
        pretrained = others[1] if self._encoder else self._table[0][sample["id"]]
        consistency = representation_consistency_loss(pretrained, self.phi(fine))
        log["capcort_loss"] = consistency.data
        loss = loss + self.capcort_lambda * consistency
        log["loss"] = loss.data
        return loss, size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate like the contrastive criterion, plus ``capcort_loss``.

        It is the unweighted mean of ‖z_pre - φ(z_fine)‖² over the examples.
        """
        super().reduce_metrics(logging_outputs)
        if any("capcort_loss" in log for log in logging_outputs):
            size = total(logging_outputs, "nsentences")
            mean = total(logging_outputs, "capcort_loss") / max(size, 1)
            metrics.log_scalar("capcort_loss", mean, size, round=4)


def _mlp(cfg: SentencePredictionCapcortConfig, size: int) -> nn.Module:
    """Build φ: hidden layers, each with an activation, and a projection back."""
    width = int(cfg.capcort_mlp_width) or size
    layers: list[nn.Module] = []
    for number in range(int(cfg.capcort_mlp_layers)):
        layers.append(nn.Linear(width if number else size, width))
        layers.append(ACTIVATIONS[str(cfg.capcort_mlp_activation)]())
    return nn.Sequential(*layers, nn.Linear(width, size))


def _training_set(task: Any, name: str) -> Any:
    if name not in task.datasets:
        raise InputError(
            f"--capcort-targets stored needs the training set {name!r}: loaded are "
            f"{', '.join(task.datasets) or 'none'}"
        )
    return task.datasets[name]


def _check(cfg: SentencePredictionCapcortConfig, task: Any) -> None:
    if not 0 <= cfg.capcort_lambda < float("inf"):
        raise InputError(
            f"--capcort-lambda is {cfg.capcort_lambda}: it must be 0 or above"
        )
    check_choice(cfg, "capcort_map", MAPS)
    check_choice(cfg, "capcort_features", POOLINGS)
    check_choice(cfg, "capcort_targets", TARGETS)
    check_choice(cfg, "capcort_mlp_activation", tuple(ACTIVATIONS))
    for name, least in (("width", 0), ("layers", 1)):
        value = getattr(cfg, f"capcort_mlp_{name}")
        if value < least:
            raise InputError(
                f"--capcort-mlp-{name} is {value}: it must be at least {least}"
            )
    cropped = str(getattr(task.cfg, "shorten_method", "none")) == "random_crop"
    if cropped and cfg.capcort_targets == "stored":
        raise InputError(
            "--capcort-targets stored cannot be combined with --shorten-method "
            "random_crop: examples change in each epoch, use --capcort-targets encoder"
        )
