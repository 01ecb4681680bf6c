"""Early exit: each sentence leaves the encoder as soon as an exit is sure enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import Classifier
from fairseq_scl.inference.predict import batches, probabilities
from fairseq_scl.packing.early_exit import early_exit
from fairseq_scl.packing.encoder import LENGTHS, unsupported


@dataclass(frozen=True)
class ExitRule:
    """When a sentence leaves below the top; one of the two, or none: never.

    Attributes:
        threshold: the largest class probability reaches it. Above 1: never.
        patience: so many exits in a row, this one among them, predict the same label.
            1 is the first exit. (The patience of Zhou et al. 2020, PABEE, counts
            repetitions: theirs plus 1 is this one.)
    """

    threshold: float | None = None
    patience: int | None = None

    @property
    def never(self) -> bool:
        """Whether every sentence goes to the top."""
        return self.patience is None and (self.threshold is None or self.threshold > 1)


def check_rule(rule: ExitRule) -> None:
    """Refuse a rule that makes no sense.

    Raises:
        InputError: both are set, or one is out of its range; names the flag.
    """
    threshold, patience = rule.threshold, rule.patience
    if threshold is not None and patience is not None:
        raise InputError("--exit-threshold and --exit-patience: give one of the two")
    if threshold is not None and not 0 < threshold < float("inf"):
        raise InputError(
            f"--exit-threshold is {threshold}: it must be a probability above 0, or "
            "above 1 for the deepest exit"
        )
    if patience is not None and patience < 1:
        raise InputError(f"--exit-patience is {patience}: it must be at least 1")


def check_exits(classifier: Classifier, rule: ExitRule, name: object) -> None:
    """Refuse to exit early from a model that cannot.

    Args:
        classifier: a loaded model folder.
        rule: what is asked of it.
        name: of the model, for the message.

    Raises:
        InputError: it has no exit below the top, or a part that is not supported.
    """
    if rule.never:
        return
    if len(classifier.exits) == 1:
        raise InputError(
            f"{name} has one exit, the top: to leave early it has to be trained with "
            "--arch roberta_multi_exit"
        )
    if reason := unsupported(classifier.model):
        raise InputError(
            f"{name} cannot be left early, since --packed does not go with {reason}"
        )


def early_probabilities(
    classifier: Classifier,
    encoded: Sequence[Tensor],
    rule: ExitRule,
    max_tokens: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Compute the class probabilities of encoded examples at the exit of each.

    Sentences that are done leave their batch, and the others go on without them. A rule
    that never holds gives what
    :func:`fairseq_scl.inference.predict.probabilities` gives.

    Args:
        classifier: a loaded model folder that was checked by :func:`check_exits`.
        encoded: token ids, as :func:`fairseq_scl.inference.predict.encode` returns.
        rule: when a sentence leaves.
        max_tokens: tokens in a batch, padding included.

    Returns:
        probabilities ``(N, classes)`` float32, and the layer of the exit ``(N,)``
        int64, counted from 1; on the CPU, in the order of ``encoded``.
    """
    layers = torch.full((len(encoded),), max(classifier.exits))
    if rule.never:
        return probabilities(classifier, encoded, max_tokens), layers
    result = torch.zeros(len(encoded), len(classifier.labels))
    for rows, batch in batches(classifier, encoded, max_tokens):
        with torch.inference_mode():
            logits, exits = early_exit(
                classifier.model,
                batch["src_tokens"],
                batch[LENGTHS],
                classifier.exits,
                _leaves(rule, len(rows), batch["src_tokens"].device),
                classifier.exit_pooling == "mean",
            )
        result[rows] = torch.softmax(logits.float(), dim=-1).cpu()
        layers[rows] = exits.cpu()
    return result, layers


Leaves = Callable[[Tensor, Tensor], Tensor]


def _leaves(rule: ExitRule, size: int, device: torch.device) -> Leaves:
    """Return what tells, at each exit of one batch, who leaves."""
    if rule.patience is not None:
        return _patient(rule.patience, size, device)
    return _confident(float("inf") if rule.threshold is None else rule.threshold)


def _confident(threshold: float) -> Leaves:
    def leaves(_: Tensor, logits: Tensor) -> Tensor:
        best: Tensor = torch.softmax(logits.float(), dim=-1).amax(dim=-1)
        return best >= threshold

    return leaves


def _patient(patience: int, size: int, device: torch.device) -> Leaves:
    last = torch.full((size,), -1, device=device)
    repeated = torch.zeros_like(last)

    def leaves(rows: Tensor, logits: Tensor) -> Tensor:
        predicted = logits.argmax(dim=-1)
        again = last[rows] == predicted
        repeated[rows] = torch.where(again, repeated[rows] + 1, 1)
        last[rows] = predicted
        return repeated[rows] >= patience

    return leaves
