"""Pooling: from the final states of a sentence's tokens to the input of its head."""

from typing import Any

from torch import Tensor

from fairseq_scl.losses.shared import at_least_float32

POOLINGS = ("cls", "mean")


def pooled(states: Tensor, tokens: Tensor, pad: int, pooling: str) -> Tensor:
    """Pool the states of each sentence.

    Args:
        states: ``(B, T, D)``, final hidden states.
        tokens: ``(B, T)`` int64, the sentences; padded positions do not count.
        pad: id of padding.
        pooling: ``cls``: the state at ``<s>``; ``mean``: the mean over the tokens,
            including ``<s>`` and ``</s>``.

    Returns:
        ``(B, D)``, for ``cls`` in the dtype of the states, for ``mean`` in at least
        float32.
    """
    if pooling == "cls":
        return states[:, 0, :]
    real = tokens.ne(pad).unsqueeze(2)
    terms = at_least_float32(states).masked_fill(~real, 0.0)
    return terms.sum(dim=1) / real.sum(dim=1)


def head_pooling(model: Any) -> str:
    """Return what the classification heads of a model read, ``cls`` or ``mean``."""
    return str(getattr(model, "head_pooling", "cls"))
