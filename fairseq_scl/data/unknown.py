"""Tokens that an encoder's dictionary does not have, counted in its data folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset

from fairseq_scl.errors import InputError

MAX_UNKNOWN = 0.1
ROWS_AT_ONCE = 1 << 14

Counts = Mapping[str, int]


def unknown_tokens(folder: Path, split: str) -> dict[str, int]:
    """Count the tokens of a split, those that are ``<unk>``, and what they leave.

    Args:
        folder: a data folder.
        split: one of its splits.

    Returns:
        ``tokens`` without the ``</s>`` of each sentence, how many of them are
        ``unknown``, and the ``sentences`` without a single known token. A pair is two
        sentences.
    """
    unk = Dictionary().unk()
    counts = dict.fromkeys(("tokens", "unknown", "sentences"), 0)
    for part in sorted(folder.glob("input?")):
        rows = MMapIndexedDataset(str(part / split))
        ids = np.memmap(part / f"{split}.bin", rows._index.dtype, mode="r")
        end = 0
        for first in range(0, len(rows), ROWS_AT_ONCE):
            sizes = rows.sizes[first : first + ROWS_AT_ONCE].astype(np.int64)
            begin, end = end, end + int(sizes.sum())
            starts = np.cumsum(sizes) - sizes
            unknown = np.add.reduceat((ids[begin:end] == unk).astype(np.int64), starts)
            counts["tokens"] += int((sizes - 1).sum())
            counts["unknown"] += int(unknown.sum())
            counts["sentences"] += int((unknown == sizes - 1).sum())
    return counts


def check_unknown(
    found: Mapping[str, Counts], encoder: str | Path, most: float = MAX_UNKNOWN
) -> None:
    """Refuse text that the encoder's dictionary does not fit.

    Args:
        found: of each split what :func:`unknown_tokens` returns.
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
