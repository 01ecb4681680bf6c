"""Count the tokens of a data folder that the encoder's dictionary lacks."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
from fairseq.data import Dictionary

from fairseq_scl.errors import InputError

MAX_UNKNOWN = 0.1
UNKNOWN = Dictionary().unk()  # the same in every dictionary

Counts = Mapping[str, int]


def count_unknown(counts: MutableMapping[str, int], row: torch.Tensor) -> None:
    """Add the tokens of a sentence to the counts.

    Args:
        counts: ``tokens``, without the ``</s>`` of each sentence; ``unknown``, the
            number of these that are ``<unk>``; and ``sentences``, the number of
            sentences without a known token. A pair counts as two sentences.
        row: ``(T,)`` int32 ids with ``</s>`` at the end.
    """
    unknown, tokens = int((row == UNKNOWN).sum()), len(row) - 1
    counts["tokens"] += tokens
    counts["unknown"] += unknown
    counts["sentences"] += unknown == tokens


def check_unknown(
    found: Mapping[str, Counts], encoder: str | Path, most: float
) -> None:
    """Refuse splits with a share of unknown tokens above ``most``.

    Raises:
        InputError: names the split, its share and the flag of ``prepare``.
    """
    for split, counts in found.items():
        if (share := share_unknown(counts)) > most:
            raise InputError(
                f"{share:.1%} of the tokens of {split} ({counts['unknown']:,} of "
                f"{counts['tokens']:,}) are unknown to {encoder}, but at most "
                f"{most:.1%} may be: use an encoder whose dictionary fits the language "
                "of the text (only 'fairseq-scl prepare' allows more, with "
                "--max-unknown)"
            )


def share_unknown(counts: Counts) -> float:
    """Return the share of unknown tokens; 1 if there are no tokens."""
    return counts["unknown"] / counts["tokens"] if counts["tokens"] else 1.0
