"""A table of labeled texts of your own: columns, distinct examples and their split."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fairseq_scl.data.quotes import separator_hint
from fairseq_scl.data.readers import QUOTED_TSV, own_table
from fairseq_scl.data.suspects import Checks, check_labels
from fairseq_scl.data.texts import Example, class_names
from fairseq_scl.errors import InputError, first_few

# Usual names of columns, in lower case. A pair is two sentences.
TEXTS = (
    *("text", "sentence", "review", "content", "body", "comment", "message", "tweet"),
    *("utterance", "document", "title"),
)
PAIRS = (
    *(("sentence1", "sentence2"), ("text1", "text2"), ("text_a", "text_b")),
    *(("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence")),
)
LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "y")

LEAST_EXAMPLES = 20
# Classes with fewer rows are not split.
LEAST_OF_A_CLASS = 3
VALID_SHARE, MOST_VALID = 0.2, 500


def guess_columns(path: Path) -> list[str]:
    """Find the columns of a table by their usual names, in any case.

    Returns:
        names of one or two text columns, followed by that of the label column.

    Raises:
        InputError: the file cannot be read, or its columns are not clear; names them.
    """
    names = own_table(path, ("text", "label")).column_names()
    known = {name.strip().lower(): name for name in names}
    pairs = [pair for pair in PAIRS if all(name in known for name in pair)]
    texts = [known[name] for name in TEXTS if name in known]
    labels = [known[name] for name in LABELS if name in known]
    if pairs:
        texts = [known[name] for name in pairs[0]]
    usual = {name.strip().lower() for name in (*texts, *labels)}
    spelled = {name for name in names if name.strip().lower() in usual}
    clear = len(spelled) == len(usual) and len(pairs) <= 1 and len(labels) == 1
    if not clear or len(texts) != 1 + len(pairs):
        raise InputError(
            f"{path} has the columns {', '.join(map(repr, names))}"
            + (
                separator_hint(names)
                or ": name those of the text and of the label with --columns TEXT LABEL"
            )
        )
    return [*texts, *labels]


def read_rows(
    path: Path, columns: Sequence[str], drop_empty: bool, note: Callable[[str], object]
) -> list[Example]:
    """Read all examples of a table, see :func:`~fairseq_scl.data.readers.own_table`.

    Sentences about quotes in a ``.tsv`` and rows that were skipped go to ``note``.

    Raises:
        InputError: the table cannot be read, has an empty cell or has no rows.
    """
    table = own_table(path, columns, drop_empty=drop_empty)
    found = [example for _, example in table]
    if table.layout.format == QUOTED_TSV:
        note(f"{path} is read with CSV quoting, as written by pandas")
    for reason, count in table.left_out.items():
        note(f"skipped: {count} rows {reason} of {path}")
    if not found:
        raise InputError(f"{path} has no rows")
    return found


def read_distinct(
    path: Path, columns: Sequence[str], drop_empty: bool, checks: Checks
) -> list[Example]:
    """Read the examples of a table as :func:`read_rows`, each text once.

    Of a text that occurs several times, the first counts and the others are noted.

    Returns:
        examples with different texts, in the order of the table.

    Raises:
        InputError: the table cannot be read, has an empty cell, has labels that do not
            look like classes, a single class, or too few different texts.
    """
    found = read_rows(path, columns, drop_empty, checks.note)
    first = {example.label: example.origin for example in reversed(found)}
    try:
        class_names(first)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    distinct: dict[tuple[str, ...], Example] = {}
    others: list[Example] = []  # the same text with another label
    for example in found:
        there = distinct.setdefault(example.sentences, example)
        if there.label != example.label:
            others.append(example)
    if len(distinct) < len(found):
        checks.note(
            f"{len(found) - len(distinct)} rows of {path} repeat the text of an "
            "earlier one and were skipped"
            + (
                f"; {len(others)} of them have another label, the first at "
                f"{others[0].origin}"
                if others
                else ""
            )
        )
    examples = list(distinct.values())
    if len(examples) < LEAST_EXAMPLES:
        raise InputError(
            f"the number of different texts in {path} is {len(examples)}: at least "
            f"{LEAST_EXAMPLES} are needed"
        )
    check_labels(Counter(e.label for e in examples), first, checks)
    return examples


def split_off_validation(
    examples: Sequence[Example], seed: int, checks: Checks
) -> tuple[list[Example], list[Example]]:
    """Draw a validation set: a fifth of each class, at most about 500 in all.

    At least one example of each class is drawn, except for classes with one or two
    examples, which are noted and used for training only.

    Returns:
        the examples for training and for validation.

    Raises:
        InputError: fewer than two classes are larger; every accuracy would be 100% if
            the validation examples were of a single class.
    """
    members: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        members.setdefault(example.label, []).append(number)
    small = {n: len(m) for n, m in sorted(members.items()) if len(m) < LEAST_OF_A_CLASS}
    if (large := len(members) - len(small)) < 2:
        raise InputError(
            f"{large} of {len(members)} classes have at least {LEAST_OF_A_CLASS} "
            "different texts, but validation needs two such classes: label more, or "
            "merge classes"
        )
    if small:
        named = first_few(f"{name!r} ({n})" for name, n in small.items())
        checks.note(
            f"too few examples to measure {len(small)} of {len(members)} classes, "
            f"which are used for training only: {named}"
        )
    random = np.random.default_rng(seed)
    share = min(VALID_SHARE, MOST_VALID / len(examples))
    drawn: set[int] = set()
    for name, numbers in sorted(members.items()):
        if name not in small:
            count = max(1, round(share * len(numbers)))
            drawn.update(random.permutation(numbers)[:count].tolist())
    train = [e for number, e in enumerate(examples) if number not in drawn]
    return train, [examples[number] for number in sorted(drawn)]
