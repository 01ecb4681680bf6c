"""The texts that are to be augmented: those of a drawn sample, or a table's."""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from fairseq_scl.data.binarise import DRAW
from fairseq_scl.data.files import sha256
from fairseq_scl.data.official_files import task_table
from fairseq_scl.data.readers import TableFile, own_table
from fairseq_scl.data.tasks import TASKS, TRAIN
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Checksum, Count, Name, read_as

NOT_UTF8 = "not UTF-8"
NO_TEXT = "without a text"
MOST_LINES = 10**7
RANGES = r"^[0-9]{1,12}(-[0-9]{1,12})?(,[0-9]{1,12}(-[0-9]{1,12})?)*$"


class _File(msgspec.Struct):
    sha256: Checksum


class _Part(msgspec.Struct):
    lines: Annotated[str, Meta(pattern=RANGES)]
    sha256: Checksum

    def __post_init__(self) -> None:
        ends = [part.split("-") for part in self.lines.split(",")]
        if sum(max(int(end[-1]) - int(end[0]), 0) for end in ends) > MOST_LINES:
            raise ValueError(f"lines are more than {MOST_LINES:,}")


class _Files(msgspec.Struct):
    train: _File


class _Parts(msgspec.Struct):
    train: _Part


class _Flip(msgspec.Struct):
    row: Count
    label: Name = msgspec.field(name="is")


class _Flips(msgspec.Struct):
    rows: list[_Flip] = []


class _Draw(msgspec.Struct):
    """What is read of ``draw.json``, which has more."""

    SCHEMA: ClassVar[int] = 1

    source: str
    files: _Files
    splits: _Parts
    flipped: _Flips = msgspec.field(default_factory=_Flips)


def read_drawn(folder: str | Path, source: str | Path) -> list[Example]:
    """Read the training examples of a prepared sample from the official files.

    Args:
        folder: a data folder with ``draw.json``, as ``fairseq-scl prepare`` writes.
        source: folder that holds the official one (SST-2 …), or is it.

    Returns:
        the examples in the order of the sample.

    Raises:
        InputError: the folder tells not where its examples are from, they are not from
            a task of the paper, or the official file is another one.
    """
    folder = Path(folder)
    draw = read_as(folder / DRAW, _Draw)
    name, train, of_file = draw.source, draw.splits.train, draw.files.train.sha256
    if name not in TASKS:
        raise InputError(
            f"{folder} was drawn from {name}, which is no task of the paper: give your "
            "own file with --table"
        )
    table = task_table(TASKS[name], source, TRAIN)
    if (found := sha256(table.path)) != of_file:
        raise InputError(
            f"{table.path} is not the file that {folder} was drawn from: its SHA-256 "
            f"is {found}, {folder / DRAW} has {of_file}"
        )
    wanted = line_numbers(train.lines)
    examples = [example for line, example in table if line in wanted]
    for flip in draw.flipped.rows:
        if flip.row < len(examples):  # else the texts differ, too
            examples[flip.row] = replace(examples[flip.row], label=flip.label)
    if digest(examples) != train.sha256:
        raise InputError(
            f"the examples in {table.path} are not those that {folder / DRAW} lists: "
            "their SHA-256 differs"
        )
    return examples


def digest(examples: Iterable[Example]) -> str:
    """Return the SHA-256 of examples as text, as ``draw.json`` has it."""
    found = hashlib.sha256()
    for example in examples:
        text = "\t".join((*example.sentences, example.label))
        found.update(f"{text}\n".encode())
    return found.hexdigest()


def line_numbers(ranges: str) -> set[int]:
    """Read rising numbers from ranges: ``2-4,9`` is 2, 3, 4 and 9."""
    numbers: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def read_every_row(
    path: str | Path, columns: Sequence[str]
) -> tuple[list[Example], Counter[str]]:
    """Read a user's own table and leave no row out.

    A row without a text has an empty one; bytes that are not UTF-8 become U+FFFD.

    Args:
        path: ``.tsv``, ``.csv`` or ``.jsonl``, see :func:`readers.own_table`.
        columns: names of one or two text columns and, last, of the label's.

    Returns:
        the examples in the order of the rows, and how many were not in order, by
        reason.

    Raises:
        InputError: see :class:`readers.TableFile`.
    """
    path = Path(path)
    layout = own_table(path, columns).layout
    notes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        readable = path
        if path.is_file() and (broken := _broken_lines(path)):
            notes[NOT_UTF8] = broken
            readable = _mended(path, Path(scratch, path.name))
        try:
            examples = [
                replace(e, origin=e.origin.replace(str(readable), str(path)))
                for _, e in _EveryRow(readable, layout)
            ]
        except InputError as error:
            message = str(error).replace(str(readable), str(path))
            raise InputError(message) from error
    if not examples:
        raise InputError(f"{path} has no row")
    notes[NO_TEXT] = sum(not all(example.sentences) for example in examples)
    return examples, +notes


class _EveryRow(TableFile):
    """A table whose empty texts stay in their rows."""

    def _example(self, row: dict[str, Any], origin: str) -> Example | None:
        columns = [column for columns in self.layout.sentences for column in columns]
        empty = [c for c in columns if isinstance(row[c], str) and not row[c].strip()]
        example = super()._example({**row, **dict.fromkeys(empty, "-")}, origin)
        if example is None or not empty:
            return example
        texts = zip(columns, example.sentences, strict=True)
        sentences = tuple("" if c in empty else text for c, text in texts)
        return Example(sentences, example.label, example.origin)


def _broken_lines(path: Path) -> int:
    count = 0
    with path.open("rb") as file:
        for line in file:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                count += 1
    return count


def _mended(path: Path, copy: Path) -> Path:
    with (
        path.open(encoding="utf-8", errors="replace", newline="") as file,
        copy.open("w", encoding="utf-8", newline="") as mended,
    ):
        shutil.copyfileobj(file, mended)
    return copy


def line_ranges(lines: Iterable[int]) -> str:
    """Write rising numbers as ranges: ``2-4,9`` for 2, 3, 4 and 9."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
