"""Early exit: each sentence leaves the encoder at the first exit that is sure enough.

Finished sentences are removed from the packed batch. At an exit, the keys and values of
all tokens are computed, but of the layer's output only the ``<s>`` rows, which the head
reads. The other rows are computed only for the sentences that remain. A sentence that
leaves at layer l therefore costs little more than l - 1 layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import LoadedModel
from fairseq_scl.inference.predict import batches, probabilities
from fairseq_scl.packing.encoder import LENGTHS, unsupported
from fairseq_scl.packing.layers import dropout_noise, embed, keys_and_values, layer_rows
from fairseq_scl.packing.layout import Layout

Leaves = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ExitRule:
    """The condition for leaving below the top exit; without either attribute, never.

    Attributes:
        threshold: leave when the largest class probability is at least this; above 1
            means never.
        patience: leave when this many consecutive exits, including the current one,
            predict the same label; 1 means the first exit. (Zhou et al. 2020, PABEE,
            count repetitions, so their patience is one less.)

    Raises:
        InputError: both are set, or one is out of its range; names the flag.
    """

    threshold: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        threshold, patience = self.threshold, self.patience
        if threshold is not None and patience is not None:
            raise InputError(
                "--exit-threshold and --exit-patience exclude each other: use one"
            )
        if threshold is not None and not 0 < threshold < float("inf"):
            raise InputError(
                f"--exit-threshold is {threshold}: it must be a probability above 0, "
                "or above 1 for the deepest exit"
            )
        if patience is not None and patience < 1:
            raise InputError(f"--exit-patience is {patience}: it must be at least 1")

    @property
    def never(self) -> bool:
        """Whether every sentence runs to the top exit."""
        return self.patience is None and (self.threshold is None or self.threshold > 1)


def check_exits(classifier: LoadedModel, rule: ExitRule, name: object) -> None:
    """Refuse a model, called ``name`` in the message, that does not support early exit.

    Raises:
        InputError: the model has no exit below the top, or has an unsupported part.
    """
    if rule.never:
        return
    if len(classifier.exits) == 1:
        raise InputError(
            f"{name} has only the top exit: early exit needs a model that was trained "
            "with --arch roberta_multi_exit"
        )
    if reason := unsupported(classifier.model):
        raise InputError(
            f"{name} does not support early exit, since --packed cannot be combined "
            f"with {reason}"
        )


def early_probabilities(
    classifier: LoadedModel,
    encoded: Sequence[Tensor],
    rule: ExitRule,
    max_tokens: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Compute the class probabilities of encoded examples, each at its own exit.

    Finished sentences are removed from their batch. A rule that never applies gives the
    results of :func:`fairseq_scl.inference.predict.probabilities`. The model must have
    passed :func:`check_exits`. ``max_tokens`` limits the tokens in a batch, including
    padding.

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
            logits, exits = _pass_upwards(
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


def _leaves(rule: ExitRule, size: int, device: torch.device) -> Leaves:
    """Return a function that selects the sentences of a batch that leave at an exit."""
    last = torch.full((size,), -1, device=device)
    repeated = torch.zeros_like(last)

    def confident(_: Tensor, logits: Tensor) -> Tensor:
        best: Tensor = torch.softmax(logits.float(), dim=-1).amax(dim=-1)
        return best >= float("inf" if rule.threshold is None else rule.threshold)

    def patient(rows: Tensor, logits: Tensor) -> Tensor:
        predicted = logits.argmax(dim=-1)
        again = last[rows] == predicted
        repeated[rows] = torch.where(again, repeated[rows] + 1, 1)
        last[rows] = predicted
        return repeated[rows] >= (rule.patience or 1)

    return patient if rule.patience is not None else confident


def _pass_upwards(
    model: Any,
    tokens: Tensor,
    lengths: list[int],
    heads: Mapping[int, str],
    leaves: Leaves,
    mean: bool,
) -> tuple[Tensor, Tensor]:
    """Run a batch through the layers until every sentence has left.

    Args:
        model: RoBERTa that can be packed, in evaluation mode.
        tokens: ``(B, T)`` int64, padded on the right.
        lengths: number of tokens in each sentence, all above 0.
        heads: name of the classification head by layer, counted from 1 and including
            the last layer.
        leaves: called at each exit below the top with the remaining rows of the batch,
            ``(R,)`` int64, and their logits ``(R, C)``; returns ``(R,)`` bool, true for
            the sentences that leave.
        mean: whether heads below the top read the mean over the tokens instead of the
            state at ``<s>``; all rows of their layer are computed then.

    Returns:
        the logits ``(B, C)`` at the exit of each sentence, and its layer ``(B,)``
        int64.
    """
    encoder = model.encoder.sentence_encoder
    noise = dropout_noise(tokens)
    layout = Layout.of(lengths, tokens.shape[1], tokens.device)
    rows = layout.back.argsort()  # rows of the batch, in the layout's order
    x = embed(encoder, tokens, layout, noise)
    answers: list[tuple[Tensor, Tensor, int]] = []
    for number, layer in enumerate(encoder.layers, start=1):
        is_top = number == len(encoder.layers)
        known: Sequence[Tensor] = ()
        if number not in heads or (mean and not is_top):
            x = layer_rows(layer, x, None, layout, noise)
        else:
            known = keys_and_values(layer, x)
        if number in heads:
            if known:
                first = x.index_select(0, layout.starts[:-1])
                state = layer_rows(layer, first, known, layout, noise)
            else:
                state = layout.means(x)
            logits = model.classification_heads[heads[number]](state[:, None])
            gone = torch.ones_like(rows, dtype=torch.bool)
            if not is_top:
                gone = leaves(rows, logits)
            answers.append((rows[gone], logits[gone], number))
            rows = rows[~gone]
            if not len(rows):
                break
            if len(rows) < len(gone):
                layout, kept = _without(layout, gone)
                x, *known = (part.index_select(0, kept) for part in (x, *known))
            if known:  # the other rows of this layer, for the remaining sentences
                x = layer_rows(layer, x, known, layout, noise)
    order = torch.cat([left for left, _, _ in answers]).argsort()
    layers = torch.cat([torch.full_like(left, number) for left, _, number in answers])
    return torch.cat([logits for _, logits, _ in answers])[order], layers[order]


def _without(layout: Layout, gone: Tensor) -> tuple[Layout, Tensor]:
    """Return the layout of the remaining sentences, and their rows, ``(N,)`` int64."""
    kept = (~gone).repeat_interleave(layout.starts.diff()).nonzero().flatten()
    pairs = zip(layout.lengths, gone.tolist(), strict=True)
    lengths = [length for length, left in pairs if not left]
    return Layout.of(lengths, lengths[-1], gone.device), kept
