"""Early exit on real tokens: sentences that are done are taken out of the batch.

At an exit the keys and values of all tokens are computed, then only the ``<s>`` rows,
which the head reads. The other rows of this layer are computed for the sentences that
stay: one that leaves at layer l costs l - 1 layers and little more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_scl.packing.encoder import (
    dropout_noise,
    embed,
    keys_and_values,
    layer_rows,
)
from fairseq_scl.packing.layout import Layout


def early_exit(
    model: Any,
    tokens: Tensor,
    lengths: list[int],
    heads: Mapping[int, str],
    leaves: Callable[[Tensor, Tensor], Tensor],
    mean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pass a batch upwards until each sentence has left, at the top at the latest.

    Args:
        model: RoBERTa that can be packed, in evaluation mode.
        tokens: ``(B, T)`` int64, padded on the right.
        lengths: tokens of each sentence, all above 0.
        heads: name of the classification head after each layer that has one, the last
            layer among them; layers count from 1.
        leaves: asked at each exit but the top, with the rows of the batch that are
            left ``(R,)`` int64 and their logits ``(R, C)``; returns ``(R,)`` bool, true
            for those that leave with this answer.
        mean: heads below the top read the mean over the tokens, not the state at
            ``<s>``; then all rows of their layer are computed.

    Returns:
        logits ``(B, C)`` of the exit at which each sentence left, and the layer of
        that exit ``(B,)`` int64.
    """
    encoder = model.encoder.sentence_encoder
    noise = dropout_noise(tokens)
    layout = Layout.of(lengths, tokens.shape[1], tokens.device)
    rows = layout.back.argsort()  # of the batch, in the layout's order
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
            if known:  # for those that stay, the other rows of this layer
                x = layer_rows(layer, x, known, layout, noise)
    order = torch.cat([left for left, _, _ in answers]).argsort()
    layers = torch.cat([torch.full_like(left, number) for left, _, number in answers])
    return torch.cat([logits for _, logits, _ in answers])[order], layers[order]


def _without(layout: Layout, gone: Tensor) -> tuple[Layout, Tensor]:
    """Return the layout of the sentences that stay, and their rows ``(N,)`` int64."""
    kept = (~gone).repeat_interleave(layout.starts.diff()).nonzero().flatten()
    pairs = zip(layout.lengths, gone.tolist(), strict=True)
    lengths = [length for length, left in pairs if not left]
    return Layout.of(lengths, lengths[-1], gone.device), kept
