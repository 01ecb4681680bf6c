"""Detect labels and texts that are readable but probably wrong."""

import functools
import hashlib
import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from fairseq_scl.data.texts import Example
from fairseq_scl.data.unknown import MAX_UNKNOWN
from fairseq_scl.errors import InputError

SEPARATORS = re.compile("[,;|/+&]")
NUMBERS = re.compile(r"\d+(\s+\d+)+")
FEW_CLASSES = 4


@dataclass(frozen=True)
class Checks:
    """Which findings to accept, and a callback for notes.

    Attributes:
        max_unknown: the largest share of unknown tokens in a split.
        any_labels: whether to accept labels that look like ratings, lists or other
            spellings of a label.
        note: called with one sentence for each finding that is not an error.
    """

    max_unknown: float = MAX_UNKNOWN
    any_labels: bool = False
    note: Callable[[str], object] = lambda _: None


def check_labels(
    counts: Mapping[str, int], first: Mapping[str, str], checks: Checks
) -> None:
    """Refuse labels that do not look like classes; note labels that occur only once.

    Fractional numbers, several labels in one, and nearly as many labels as examples are
    refused, as are labels that differ only in case, whitespace, invisible characters,
    Unicode normalization or the format of a number.

    Args:
        counts: number of examples of each label in the training set.
        first: file and line of the first example of each label.
        checks: whether to refuse, and a callback for notes.

    Raises:
        InputError: names file and line, the label, and ``--labels-are-classes``.
    """
    once = [label for label, count in counts.items() if count == 1]
    if once and len(counts) > 1:
        checks.note(
            f"{len(once)} of {len(counts)} labels occur only once, for example "
            f"{once[0]!r} in {first[once[0]]}"
        )
    if checks.any_labels:
        return
    for label, problem in _problems(counts):
        raise InputError(
            f"{first[label]}: the label {label!r} {problem}; each example must have "
            "one class: fix the labels, or use --labels-are-classes if every label is "
            "a separate class"
        )


def _problems(counts: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    """Yield suspicious labels, each with the problem."""
    numbers = {label: _number(label) for label in counts}
    for label, number in numbers.items():
        if number is not None and number % 1:
            yield label, "looks like a rating or a score"
    labels = {label: _parts(label) for label in counts}
    occurs_in = Counter(part for parts in labels.values() for part in {*parts})
    for label, parts in labels.items():
        if label[0] + label[-1] in ("[]", "{}"):
            yield label, "looks like a list of labels"
        if len(parts) > 1 and any(occurs_in[part] > 1 for part in parts):
            yield label, "looks like several labels at once"
    spellings: dict[object, str] = {}
    for label, number in numbers.items():
        known = spellings.setdefault(_plain(label) if number is None else number, label)
        if known != label:
            yield label, f"is another spelling of {known!a}, written {label!a}"
    count, total = len(counts), sum(counts.values())
    if count > FEW_CLASSES and 2 * count > total:
        yield next(iter(counts)), f"is one of {count} labels in only {total} examples"


def _number(label: str) -> float | None:
    try:
        value = float(label.removesuffix("%"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _parts(label: str) -> list[str]:
    """Split a label that may consist of several."""
    if NUMBERS.fullmatch(label):
        return label.split()
    return [part.strip() for part in SEPARATORS.split(label)]


def _plain(label: str) -> str:
    """Return a form that is the same for all spellings of a label."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return "".join(
        c for c in text if not c.isspace() and unicodedata.category(c) != "Cf"
    )


class TextIndex:
    """The line of each text in a split, in 24 bytes per example."""

    def __init__(self, file: Path) -> None:
        """Start without examples; ``file`` is for messages."""
        self.file = file
        self.lines, self.texts, self.labels = array("Q"), array("Q"), array("Q")

    def add(self, line: int, example: Example) -> None:
        """Add the example that was read from ``line``."""
        self.lines.append(line)
        self.texts.append(_hashed("\t".join(example.sentences)))
        self.labels.append(_hashed(example.label))

    def place(self, number: int) -> str:
        """Return file and line of an example."""
        return f"{self.file}, line {self.lines[number]}"


def repeated_texts(
    splits: Mapping[str, TextIndex], labels: bool = True
) -> Iterable[str]:
    """Find texts that occur in several splits and, if asked to, with several labels.

    Yields:
        one sentence per pair of splits that share texts, and one for texts with several
        labels.
    """
    for (name, one), (other, two) in combinations(splits.items(), 2):
        shared = np.isin(np.asarray(two.texts), np.asarray(one.texts))
        if shared.any():
            yield (
                f"{shared.sum():,} of the {len(shared):,} texts in {other} also occur "
                f"in {name}, the first at {two.place(int(shared.argmax()))}"
            )
    if not labels or not splits:
        return
    texts, named = (
        np.concatenate([np.asarray(getattr(s, part)) for s in splits.values()])
        for part in ("texts", "labels")
    )
    order = np.lexsort((named, texts))
    texts, named = texts[order], named[order]
    clash = (texts[1:] == texts[:-1]) & (named[1:] != named[:-1])
    if clash.any():
        pairs = np.sort(np.stack([order[:-1][clash], order[1:][clash]]), axis=0)
        first = pairs[:, pairs[1].argmin()]
        places = [_place(splits, int(number)) for number in first]
        yield (
            f"{len(np.unique(texts[1:][clash])):,} of the texts in {', '.join(splits)} "
            f"have different labels, the first at {' and '.join(places)}"
        )


def _place(splits: Mapping[str, TextIndex], number: int) -> str:
    for split in splits.values():
        if number < len(split.lines):
            return split.place(number)
        number -= len(split.lines)
    raise IndexError(number)


@functools.lru_cache
def _hashed(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
