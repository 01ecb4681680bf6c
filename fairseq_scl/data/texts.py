"""Labeled sentences and sentence pairs, and their plain text files."""

import codecs
import gzip
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairseq_scl.errors import InputError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Example:
    """One or two sentences, their label, and where they were read."""

    sentences: tuple[str, ...]
    label: str
    origin: str = ""


def read_split(folder: str | Path, split: str) -> list[Example]:
    """Read ``<split>.input0``, ``<split>.input1`` (for pairs) and ``<split>.label``.

    The files are UTF-8 with one example per line, as in fairseq's GLUE recipe.

    Raises:
        InputError: a file is missing or not UTF-8, files differ in length, or a line is
            empty; the message names file and line.
    """
    folder = Path(folder)
    columns = [read_lines(folder / f"{split}.input0")]
    if os.path.lexists(folder / f"{split}.input1"):
        columns.append(read_lines(folder / f"{split}.input1"))
    label_file = folder / f"{split}.label"
    labels = read_lines(label_file)
    for number, column in enumerate(columns):
        if len(column) != len(labels):
            raise InputError(
                f"{folder / f'{split}.input{number}'} has {len(column)} lines, but "
                f"{label_file} has {len(labels)}: each needs one line per example"
            )
    return [
        Example(tuple(sentences), label, f"{label_file}, line {number}")
        for number, (*sentences, label) in enumerate(
            zip(*columns, labels, strict=True), start=1
        )
    ]


def counted(count: int, noun: str) -> str:
    """Return a number with a noun whose plural ends in s: ``1 line``, ``2 lines``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def read_lines(path: str | Path) -> list[str]:
    """Read a UTF-8 file with one text per line, and strip each text.

    Lines end with a line feed, optionally after a carriage return. Other line breaks of
    Unicode are part of the text.

    Raises:
        InputError: the file is missing or not UTF-8, or a line is empty or has a NUL.
    """
    texts = []
    for number, line in decoded_lines(path):
        check_no_nul(line, f"{path}, line {number}")
        text = line.strip()
        if not text:
            raise InputError(f"{path}, line {number} is empty: every line needs text")
        texts.append(text)
    return texts


def decoded_lines(
    path: str | Path, broken: list[int] | None = None
) -> Iterator[tuple[int, str]]:
    """Read a UTF-8 file without its byte-order mark; ``.gz`` files are decompressed.

    Args:
        path: the file.
        broken: gets the numbers of lines that are not UTF-8, whose invalid bytes become
            U+FFFD; ``None`` refuses such lines.

    Yields:
        the number of each line, from 1, and its text without the line feed; a carriage
        return is kept.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a file")
    if not path.is_file():
        raise InputError(f"missing file: {path}")
    number = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            line = line.removesuffix(b"\n")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                if broken is None:
                    raise InputError(
                        f"{path}, line {number} is not UTF-8 (byte {error.start + 1} "
                        "of the line): convert the file, for example with iconv"
                    ) from None
                broken.append(number)
                text = line.decode("utf-8", "replace")
            yield number, text
    if number == 0:
        raise InputError(f"{path} is empty")


def check_no_nul(text: str, origin: str) -> None:
    """Refuse a NUL character, a sign of UTF-16 that was read as UTF-8.

    Raises:
        InputError: names ``origin``.
    """
    if "\0" in text:
        raise InputError(
            f"{origin} has a NUL character, which is not allowed in text: if the file "
            "is UTF-16, convert it to UTF-8, for example with iconv"
        )


def check_line_ends(text: str, origin: str) -> None:
    """Refuse a line with a carriage return inside, as in files of old Macs.

    Raises:
        InputError: names ``origin``.
    """
    if "\r" in text.rstrip("\r\n"):
        raise old_line_ends(origin)


def old_line_ends(origin: str) -> InputError:
    """Return the error of :func:`check_line_ends`."""
    return InputError(
        f"{origin} has a carriage return (CR) inside, as in files of old Macs: save "
        "the file with lines that end in LF or CRLF"
    )


def digest(examples: Iterable[Example]) -> str:
    """Return the SHA-256 of examples as text, as in ``draw.json``."""
    found = hashlib.sha256()
    for example in examples:
        found.update(hashed_line(example))
    return found.hexdigest()


def hashed_line(example: Example) -> bytes:
    """Return the line of an example that :func:`digest` hashes."""
    return ("\t".join((*example.sentences, example.label)) + "\n").encode()


def one_line(text: str) -> str:
    """Strip a text and replace each run of whitespace by one space."""
    return " ".join(text.split())


def class_names(labels: Iterable[str]) -> list[str]:
    """Return the labels of a training set in the order of their class ids.

    They are sorted by name, so that class ids depend neither on class frequencies (by
    which ``fairseq-preprocess`` sorts) nor on the sample.

    Raises:
        InputError: there are fewer than two labels, a label is reserved by fairseq's
            dictionary, or has whitespace other than single spaces inside.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise InputError(
            f"the training set has only one label ({names[0]!r}): a classifier needs "
            "at least two"
        )
    reserved = {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "#fairseq:overwrite"}
    for label in names:
        if label in reserved or label.startswith("madeupword"):
            raise InputError(
                f"the label {label!r} is reserved by fairseq: rename it in the data"
            )
        if not label or label != one_line(label):
            raise InputError(
                f"the label {label!r} must be words separated by single spaces: rename "
                "it in the data"
            )
    return names


def check_known_labels(examples: Iterable[Example], labels: Sequence[str]) -> None:
    """Refuse examples with a label that does not occur in the training set.

    Raises:
        InputError: names the file and line, the label and the labels allowed.
    """
    known = set(labels)
    for example in examples:
        if example.label not in known:
            raise InputError(
                f"{example.origin}: the label {example.label!r} does not occur in the "
                f"training set, which has {', '.join(map(repr, labels))}"
            )
