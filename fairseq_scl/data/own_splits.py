"""A user's own splits: ``train.input0``, ``train.label``, ``valid.input0``, etc."""

import itertools
from collections import Counter
from pathlib import Path

from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.suspects import Checks, TextIndex, check_labels, repeated_texts
from fairseq_scl.data.texts import SPLITS, Example, read_split
from fairseq_scl.errors import InputError, first_few


def prepare_splits(
    source: str | Path, encoder: str | Path, target: str | Path, checks: Checks
) -> dict[str, int]:
    """Write a data folder from a folder of text files, see :func:`read_splits`.

    Returns:
        the number of examples in each split.

    Raises:
        InputError: see :func:`read_splits`, :func:`~suspects.check_labels` and
            :func:`~binarize.binarize`.
    """
    source = Path(source)
    splits, others = read_splits(source)
    if others:
        checks.note(
            f"ignored in {source}: {first_few(others)}; the splits are "
            f"{', '.join(SPLITS)}"
        )
    if "valid" not in splits:
        checks.note(
            f"{source} lacks valid.input0: checkpoints cannot be selected without it"
        )
    train = splits["train"]
    first = {example.label: example.origin for example in reversed(train)}
    check_labels(Counter(example.label for example in train), first, checks)
    texts = {split: TextIndex(source / f"{split}.input0") for split in splits}
    for split, examples in splits.items():
        for line, example in enumerate(examples, start=1):
            texts[split].add(line, example)
    for note in repeated_texts(texts):
        checks.note(note)
    return binarize(
        splits, encoder, target, max_unknown=checks.max_unknown, inputs=[source]
    )


def read_splits(folder: str | Path) -> tuple[dict[str, list[Example]], list[str]]:
    """Read ``train`` and, if there are files, ``valid`` and ``test`` of a folder.

    Returns:
        the examples of each split, and the names of the files that were ignored.

    Raises:
        InputError: there is no training set, a split lacks a file, two splits are the
            same, or as :func:`read_split`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"missing folder: {folder}")
    others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    splits: dict[str, list[Example]] = {}
    for split in SPLITS:
        names = [f"{split}.{part}" for part in ("input0", "input1", "label")]
        there = [name for name in names if name in others]
        others = [name for name in others if name not in names]
        for name in (names[0], names[2]):
            if name not in there and (there or split == "train"):
                more = f"; the folder has {first_few(others)}" if others else ""
                more = f", to go with {there[0]}" if there else more
                raise InputError(f"missing file: {folder / name}{more}")
        if there:
            splits[split] = read_split(folder, split)
    rows = {s: [(e.sentences, e.label) for e in splits[s]] for s in splits}
    for one, other in itertools.combinations(splits, 2):
        if rows[one] == rows[other]:
            raise InputError(
                f"{folder} has the same examples in {one} and {other}: use different "
                "examples for training, validation and test"
            )
    return splits, others
