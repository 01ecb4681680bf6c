"""Reading tables of labelled sentences row by row: official files and a user's own."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.data.tasks import (
    HELD_OUT,
    MRPC_BOTH,
    MRPC_ID_COLUMNS,
    MRPC_IDS,
    Layout,
    Task,
)
from fairseq_scl.data.texts import Example, decoded_lines, one_line
from fairseq_scl.errors import InputError

SUFFIXES = {".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl"}
NO_LABEL = "without a label"
NO_TEXT = "without a text"
LARGEST_FIELD = 1 << 24
# Yelp-2 has a backslash before a quote, beside doubling it.
ESCAPED_QUOTE = re.compile(r'\\"+')

Row = tuple[int, Example]


class TableFile:
    """A file of labelled sentences that can be iterated any number of times.

    Only one row is in memory at a time. Runs of white space in a sentence become one
    blank.

    Attributes:
        path: of the file.
        layout: of its rows.
        left_out: rows left out in the latest iteration, by reason.
    """

    def __init__(
        self,
        path: str | Path,
        layout: Layout,
        only: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Name the file; nothing is read yet.

        Args:
            path: a text file in UTF-8.
            layout: how its rows are cut.
            only: which rows belong to the table, where a file holds several.
        """
        self.path = Path(path)
        self.layout = layout
        self.left_out: Counter[str] = Counter()
        self._only = only

    def __iter__(self) -> Iterator[Row]:
        """Yield the number of the line where each example begins, and the example.

        Raises:
            InputError: a missing or empty file, bytes that are not UTF-8, a column that
                is not there, too few or too many columns, an unknown label, an empty
                sentence, an open quote, a line that is no JSON object.
        """
        self.left_out = Counter()
        for number, row in self._rows():
            if self._only is None or self._only(row):
                example = self._example(row, f"{self.path}, line {number}")
                if example is not None:
                    yield number, example

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.layout.format == "jsonl":
            yield from json_rows(self.path, self._columns())
            return
        cut = _quoted if self.layout.format == "csv" else _tab_separated
        rows = cut(self.path)
        names = [str(column) for column in range(1, self.layout.width + 1)]
        if self.layout.header:
            names = next(rows)[1]
            _check_columns(f"{self.path}, line 1", self._columns(), names)
        for number, values in rows:
            if len(values) != len(names):
                raise InputError(
                    f"{self.path}, line {number} has {len(values)} column"
                    f"{'s' * (len(values) != 1)}, expected {len(names)}"
                    + (f" ({', '.join(names)})" if self.layout.header else "")
                )
            yield number, dict(zip(names, values, strict=True))

    def _example(self, row: dict[str, Any], origin: str) -> Example | None:
        value = text_of(row, self.layout.label, origin).strip()
        if value == self.layout.no_label:
            self.left_out[NO_LABEL] += 1
            return None
        if not value or value not in (self.layout.labels or (value,)):
            allowed = ", ".join(self.layout.labels) or "any text that is not empty"
            raise InputError(
                f"{origin}: the label is {value!r}, allowed: {allowed} (column "
                f"{self.layout.label})"
            )
        sentences = tuple(
            one_line(" ".join(self._plain(text_of(row, c, origin)) for c in columns))
            for columns in self.layout.sentences
        )
        for sentence, columns in zip(sentences, self.layout.sentences, strict=True):
            if not sentence and self.layout.leave_out_empty:
                self.left_out[NO_TEXT] += 1
                return None
            if not sentence:
                raise InputError(
                    f"{origin}: column {' + '.join(columns)} is empty: every row needs "
                    "a text"
                )
        return Example(sentences, self.layout.labels.get(value, value), origin)

    def _plain(self, text: str) -> str:
        if self.layout.escaped and "\\" in text:
            return ESCAPED_QUOTE.sub('"', text.replace("\\n", " "))
        return text

    def _columns(self) -> list[str]:
        return [*(c for cs in self.layout.sentences for c in cs), self.layout.label]


def own_table(path: str | Path, columns: Sequence[str]) -> TableFile:
    """Describe a user's own file.

    Args:
        path: ``.tsv`` or ``.csv`` with a line of column names first, or ``.jsonl``.
        columns: names of one or two text columns and, last, of the label's.

    Raises:
        InputError: another suffix, or another number of columns.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path} ends in {suffix or 'nothing'!r}, which tells no format: allowed "
            f"are {', '.join(SUFFIXES)}"
        )
    if not 2 <= len(columns) <= 3:
        raise InputError(
            f"--columns has {len(columns)} names ({', '.join(columns)}): name one or "
            "two columns of texts and, last, that of the label"
        )
    texts = tuple((column,) for column in columns[:-1])
    return TableFile(path, Layout(SUFFIXES[suffix], texts, columns[-1]))


def task_table(task: Task, folder: str | Path, part: str) -> TableFile:
    """Find a task's official file.

    Args:
        task: from the table of tasks.
        folder: holds the task's own folder, as the official archive makes it, or is it.
        part: ``train`` or ``held_out``.

    Raises:
        InputError: the file is in neither place.
    """
    file = task.files[part]
    places = [Path(folder, task.folder), Path(folder)]
    for place in places:
        if (place / file).is_file():
            return TableFile(place / file, task.layout)
        if task.name == "MRPC" and (place / MRPC_BOTH).is_file():
            return TableFile(place / MRPC_BOTH, task.layout, _in_mrpc(place, part))
    raise InputError(
        f"there is no {file} of {task.name} in {places[0]} or {places[1]}: get it with "
        f"'fairseq-scl download --task {task.name} --to {folder}'"
    )


def check_size(task: Task, part: str, table: TableFile, found: int) -> None:
    """Refuse an official file that has not the number of rows that it should have.

    Args:
        task: from the table of tasks.
        part: ``train`` or ``held_out``.
        table: the file.
        found: the number of its rows, those left out included.

    Raises:
        InputError: names the file and both numbers.
    """
    if found != task.rows[part]:
        raise InputError(
            f"{table.path} has {found:,} rows, but {task.name} has "
            f"{task.rows[part]:,}: the file is not complete, or --partial says that a "
            "part of the task is wanted"
        )


def _in_mrpc(folder: Path, part: str) -> Callable[[dict[str, Any]], bool]:
    """Tell the rows of MRPC's two sets apart by the id list of GLUE."""
    lines = decoded_lines(folder / MRPC_IDS)
    held_out = {tuple(line.split()) for _, line in lines}

    def belongs(row: dict[str, Any]) -> bool:
        ids = tuple(row[column] for column in MRPC_ID_COLUMNS)
        return (ids in held_out) == (part == HELD_OUT)

    return belongs


def _tab_separated(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cut lines at tabs; a quote is a character like any other."""
    for number, line in decoded_lines(path):
        yield number, line.removesuffix("\r").split("\t")


def _quoted(path: Path) -> Iterator[tuple[int, list[str]]]:
    # The module's limit is the process's; its default is under the longest reviews.
    csv.field_size_limit(LARGEST_FIELD)
    lines = (line.replace("\0", "") + "\n" for _, line in decoded_lines(path))
    reader = csv.reader(lines, strict=True)
    start = 1
    try:
        for values in reader:
            if values:
                yield start, values
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {start} is no row of quoted CSV: {error}"
        ) from None


def json_rows(
    path: Path, columns: Iterable[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read JSON lines, each an object.

    Args:
        path: of the file.
        columns: the names that each must have.

    Yields:
        the number of each line, from 1, and its object.

    Raises:
        InputError: a missing file, a line that is no JSON object or lacks a name.
    """
    for number, line in decoded_lines(path):
        origin = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{origin} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{origin} is no JSON object with names and values")
        _check_columns(origin, columns, row)
        yield number, row


def _check_columns(origin: str, wanted: Iterable[str], found: Collection[str]) -> None:
    for column in wanted:
        if column not in found:
            raise InputError(
                f"{origin}: there is no column {column!r}, only "
                f"{', '.join(map(repr, found))}"
            )


def text_of(row: dict[str, Any], column: str, origin: str) -> str:
    """Return a text, or a label that is a number, of a row.

    Raises:
        InputError: it is neither, or no Unicode; names ``origin``.
    """
    value = row[column]
    if isinstance(value, int):  # a label in JSON; true and false are integers too
        value = json.dumps(value)
    if not isinstance(value, str):
        raise InputError(f"{origin}: {column} is {value!r}, expected a text")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(
            f"{origin}: {column} holds half a surrogate pair, which is no Unicode text"
        )
    return value
