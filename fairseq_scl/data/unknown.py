"""Tokens that an encoder's dictionary does not have, counted in its data folders."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
from fairseq.data import Dictionary

from fairseq_scl.errors import InputError

MAX_UNKNOWN = 0.1
UNKNOWN = Dictionary().unk()  # the same in every dictionary

Counts = Mapping[str, int]


def count_unknown(counts: MutableMapping[str, int], row: torch.Tensor) -> None:
    """Count the tokens of a sentence, those that are ``<unk>``, and what they leave.

    Args:
        counts: ``tokens`` without the ``</s>`` of each sentence, how many of them are
            ``unknown``, and the ``sentences`` without a single known token. A pair is
            two sentences.
        row: ``(T,)`` int32 ids with ``</s>`` at the end.
    """
    unknown, tokens = int((row == UNKNOWN).sum()), len(row) - 1
    counts["tokens"] += tokens
    counts["unknown"] += unknown
    counts["sentences"] += unknown == tokens


def check_unknown(
    found: Mapping[str, Counts], encoder: str | Path, most: float = MAX_UNKNOWN
) -> None:
    """Refuse text that the encoder's dictionary does not fit.

    Args:
        found: of each split what :func:`count_unknown` counts.
        encoder: the encoder folder, for the message.
        most: the largest share of unknown tokens that is allowed.

    Raises:
        InputError: names the split, its share and the flag.
    """
    for split, counts in found.items():
        if (share := share_unknown(counts)) > most:
            raise InputError(
                f"{share:.1%} of the tokens of {split} ({counts['unknown']:,} of "
                f"{counts['tokens']:,}) are unknown to {encoder}, --max-unknown allows "
                f"{most:.1%}: use an encoder whose dictionary fits the language of the "
                "text, or raise --max-unknown"
            )


def share_unknown(counts: Counts) -> float:
    """Return unknown tokens per token; 1 for sentences without any token."""
    return counts["unknown"] / counts["tokens"] if counts["tokens"] else 1.0
