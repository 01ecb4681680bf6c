"""Count the examples of a data folder that are longer than a model reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairseq_scl.data.binarize import rows_of
from fairseq_scl.input_format import MANIFEST, Manifest, tokens_wanted
from fairseq_scl.typed import read_as


def count_cut(data: Path, splits: Sequence[str], most: int) -> tuple[int, int, int]:
    """Count the examples that are cut to ``most`` tokens, special tokens included.

    Returns:
        the number of all examples, of those that are cut, and of the pairs among these
        whose second sentence is not read at all.

    Raises:
        InputError: the folder lacks a split or is damaged.
    """
    manifest = read_as(data / MANIFEST, Manifest)
    before = [int(token is not None) for token in tokens_wanted(manifest).values()]
    total = cut = unread = 0
    for split in splits:
        first = before[0] + _sizes(data, "input0", split)
        whole = first
        if manifest.pair:
            first = first + before[1]
            whole = first + _sizes(data, "input1", split)
            unread += int((first >= most).sum())
        total += len(whole)
        cut += int((whole > most).sum())
    return total, cut, unread


def _sizes(data: Path, part: str, split: str) -> NDArray[np.int64]:
    rows = rows_of(data, part, split)  # the memory of its sizes is freed with it
    return np.array(rows.sizes, np.int64)


def cut_note(source: object, total: int, cut: int, unread: int, most: int) -> str:
    """Say how many examples of ``source`` are cut; arguments as in :func:`count_cut`.

    Without any, the note is empty.
    """
    if not cut:
        return ""
    note = f"{source}: {cut} of {total} texts are longer than {most} tokens and are cut"
    if unread:
        note += f"; of {unread}, the second sentence is not read at all"
    return note
