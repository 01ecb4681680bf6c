"""Read tables of labeled sentences row by row."""

import csv
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.data.quotes import is_quoted, open_quote_hint, separator_hint
from fairseq_scl.data.tasks import RowFormat
from fairseq_scl.data.texts import (
    Example,
    check_line_ends,
    check_no_nul,
    counted,
    decoded_lines,
    old_line_ends,
    one_line,
)
from fairseq_scl.errors import InputError

SUFFIXES = {".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl"}
QUOTED_TSV = "quoted tsv"
NO_LABEL = "without a label"
NO_TEXT = "without a text"
NOT_UTF8 = "not UTF-8"
DROP = "; --drop-empty skips rows with empty cells"
LARGEST_FIELD = 1 << 24
# Yelp-2 escapes a quote with a backslash in addition to doubling it.
ESCAPED_QUOTE = re.compile(r'\\"+')

Row = tuple[int, Example]


class TableFile:
    """A file of labeled sentences that can be iterated any number of times.

    Only one row is in memory at a time. Each run of whitespace in a sentence becomes
    one space.

    Attributes:
        path: path of the file.
        layout: format of its rows.
        left_out: number of rows skipped in the latest iteration, by reason; with
            ``keep_all``, of rows that were kept despite a problem.
    """

    def __init__(
        self,
        path: str | Path,
        layout: RowFormat,
        only: Callable[[dict[str, Any]], bool] | None = None,
        keep_all: bool = False,
    ) -> None:
        """Describe the file without reading it.

        Args:
            path: a text file in UTF-8.
            layout: format of its rows.
            only: selects the rows of this table if the file has several tables.
            keep_all: keep rows with an empty sentence, and read bytes that are not
                UTF-8 as U+FFFD.
        """
        self.path = Path(path)
        self.layout = layout
        self.left_out: Counter[str] = Counter()
        self._only = only
        self._keep_all = keep_all

    def __iter__(self) -> Iterator[Row]:
        """Yield the number of the first line of each example, and the example.

        Raises:
            InputError: the file is missing, empty or not UTF-8, a column is missing, a
                row has too few or too many columns, a label is unknown, a sentence is
                empty, a quote is not closed, or a line is not a JSON object.
        """
        self.left_out = Counter()
        broken: list[int] | None = [] if self._keep_all else None
        for number, row in self._rows(broken):
            if self._only is None or self._only(row):
                example = self._example(row, f"{self.path}, line {number}")
                if example is not None:
                    yield number, example
        if broken:
            self.left_out[NOT_UTF8] = len(broken)

    def column_names(self) -> list[str]:
        """Return the names of the columns in the first line.

        Raises:
            InputError: the file is missing, empty or not UTF-8, or its first line is
                not a row or has a NUL.
        """
        if self.layout.format == "jsonl":
            first = next(json_rows(self.path, ()), None)
            if first is None:
                raise InputError(f"{self.path} has no rows")
            return list(first[1])
        names = next(_rows_of(self.path, self.layout), (1, [""]))[1]
        check_header(f"{self.path}, line 1", (), names)
        return names

    def _rows(self, broken: list[int] | None) -> Iterator[tuple[int, dict[str, Any]]]:
        columns = [*itertools.chain(*self.layout.sentences), self.layout.label]
        if self.layout.format == "jsonl":
            yield from json_rows(self.path, columns, broken)
            return
        rows = _rows_of(self.path, self.layout, broken)
        names = [str(column) for column in range(1, self.layout.width + 1)]
        if not names:  # they are in the first line
            names = next(rows, (1, [""]))[1]
            check_header(f"{self.path}, line 1", columns, names)
        for number, values in rows:
            if len(values) != len(names):
                raise InputError(
                    f"{self.path}, line {number} has "
                    f"{counted(len(values), 'column')}, expected {len(names)}"
                    + (f" ({', '.join(names)})" if not self.layout.width else "")
                    + open_quote_hint(values)
                )
            yield number, dict(zip(names, values, strict=True))

    def _example(self, row: dict[str, Any], origin: str) -> Example | None:
        value = _label_of(row, self.layout.label, origin)
        hint = "" if self.layout.labels or self._keep_all else DROP
        if value == self.layout.no_label:
            self.left_out[NO_LABEL] += 1
            return None
        if not value or value not in (self.layout.labels or (value,)):
            allowed = ", ".join(self.layout.labels) or "any text that is not empty"
            raise InputError(
                f"{origin}: the label is {value!r}, allowed: {allowed} (column "
                f"{self.layout.label}){'' if value else hint}"
            )
        sentences = tuple(
            one_line(" ".join(self._plain(text_of(row, c, origin)) for c in columns))
            for columns in self.layout.sentences
        )
        for sentence, columns in zip(sentences, self.layout.sentences, strict=True):
            if sentence or self._keep_all:
                continue
            if self.layout.leave_out_empty:
                self.left_out[NO_TEXT] += 1
                return None
            raise InputError(
                f"{origin}: column {' + '.join(columns)} is empty: every row needs text"
                f"{hint}"
            )
        if not all(sentences):
            self.left_out[NO_TEXT] += 1
        return Example(sentences, self.layout.labels.get(value, value), origin)

    def _plain(self, text: str) -> str:
        if self.layout.escaped and "\\" in text:
            return ESCAPED_QUOTE.sub('"', text.replace("\\n", " "))
        return text


def own_table(
    path: str | Path,
    columns: Sequence[str],
    keep_all: bool = False,
    drop_empty: bool = False,
) -> TableFile:
    """Describe a user's own file.

    Args:
        path: ``.tsv`` or ``.csv`` with column names in the first line, or ``.jsonl``.
        columns: names of one or two text columns, followed by that of the label.
        keep_all: see :class:`TableFile`.
        drop_empty: skip rows with an empty text or label; otherwise they are refused.

    Raises:
        InputError: the file is missing, or its suffix or columns are not allowed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        if not Path(path).exists():
            raise InputError(f"there is no file or folder {path}")
        raise InputError(
            f"{path} has the suffix {suffix!r}, which does not name a format: allowed "
            f"are {', '.join(SUFFIXES)}"
        )
    if not 2 <= len(columns) <= 3:
        raise InputError(
            f"--columns has {counted(len(columns), 'name')} ({', '.join(columns)}): "
            "name one or two text columns, followed by that of the label"
        )
    texts = tuple((column,) for column in columns[:-1])
    kind = SUFFIXES[suffix]
    if kind == "tsv" and is_quoted(Path(path)):
        kind = QUOTED_TSV
    none = "" if drop_empty else None
    layout = RowFormat(
        kind, texts, columns[-1], no_label=none, leave_out_empty=drop_empty
    )
    return TableFile(path, layout, keep_all=keep_all)


def _rows_of(
    path: Path, layout: RowFormat, broken: list[int] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield line and values of each row, except blank ones; the table is not JSON."""
    lines = decoded_lines(path, broken)
    if layout.format == "tsv":  # split at tabs; a quote is an ordinary character
        for number, line in lines:
            if number == 1:
                check_line_ends(line, f"{path}, line 1")
            if line.strip():
                yield number, line.removesuffix("\r").split("\t")
        return
    delimiter = "\t" if layout.format == QUOTED_TSV else ","
    # A limit of the whole process; its default is too low for the longest reviews.
    csv.field_size_limit(LARGEST_FIELD)
    ended = (line + "\n" for _, line in lines)
    if layout.escaped:
        ended = (line.replace("\0", "") for line in ended)
    reader = csv.reader(ended, strict=True, delimiter=delimiter)
    start = 1
    try:
        for values in reader:
            if delimiter.join(values).strip():
                yield start, values
            start = reader.line_num + 1
    except csv.Error as error:
        if "new-line character" in str(error):
            raise old_line_ends(f"{path}, line {start}") from None
        raise InputError(
            f"{path}, line {start} is not a row of quoted CSV ({error}): close every "
            "quote, and double quotes inside a quoted field"
        ) from None


def json_rows(
    path: Path, columns: Iterable[str], broken: list[int] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file with one JSON object per line; lines of whitespace are skipped.

    Args:
        path: path of the file.
        columns: names that each object must have.
        broken: see :func:`~fairseq_scl.data.texts.decoded_lines`.

    Yields:
        the number of each line, from 1, and its object.

    Raises:
        InputError: the file is missing, or a line is not a JSON object or lacks a name.
    """
    for number, line in decoded_lines(path, broken):
        if not line.strip():
            continue
        origin = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=json_object)
        except RecursionError:
            raise InputError(f"{origin} is not JSON: too deeply nested") from None
        except ValueError as error:
            check_line_ends(line, origin)
            raise InputError(f"{origin} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{origin} is not a JSON object with names and values")
        check_columns(origin, columns, row)
        yield number, row


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; an ``object_pairs_hook`` that refuses repeated names.

    Raises:
        ValueError: a name occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the name {repeated([n for n, _ in pairs])!r} occurs twice")
    return found


def repeated(names: Sequence[str]) -> str | None:
    """Return the first name that occurs twice, or ``None``."""
    return next((n for i, n in enumerate(names) if n in names[:i]), None)


def check_columns(
    origin: str, wanted: Iterable[str], found: Collection[str], hint: str = ""
) -> None:
    """Refuse a row or header that lacks a column.

    Raises:
        InputError: names ``origin``, the column and the existing columns.
    """
    for column in wanted:
        if column not in found:
            raise InputError(
                f"{origin}: there is no column {column!r}, only "
                f"{', '.join(map(repr, found))}{hint}"
            )


def check_header(origin: str, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a first line that lacks a column or repeats it.

    Raises:
        InputError: names ``origin`` and the column.
    """
    for name in names:
        check_no_nul(name, f"{origin}: a column name")
    hint = separator_hint(names) or "; the first line must name the columns"
    check_columns(origin, wanted, names, hint)
    for column in wanted:
        if (count := names.count(column)) > 1:
            raise InputError(
                f"{origin}: {count} columns are named {column!r}: rename all but one"
            )


def _label_of(row: dict[str, Any], column: str, origin: str) -> str:
    value = row[column]
    if isinstance(value, float) and math.isfinite(value):
        return json.dumps(value)  # as it would be in CSV
    if not isinstance(value, str | int):
        raise InputError(
            f"{origin}: the label in column {column!r} is {value!r}, but it must be "
            "text or a number, one per example"
        )
    return text_of(row, column, origin).strip()


def text_of(row: dict[str, Any], column: str, origin: str) -> str:
    """Return the text, or a label that is an integer, in a column of a row.

    Raises:
        InputError: it is neither, or has a NUL or a lone surrogate; names ``origin``.
    """
    value = row[column]
    if isinstance(value, int):  # a label in JSON; true and false are integers too
        value = json.dumps(value)
    if not isinstance(value, str):
        raise InputError(f"{origin}: {column} is {value!r}, expected text")
    check_no_nul(value, f"{origin}: {column}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(
            f"{origin}: {column} has an unpaired surrogate, which is not valid Unicode"
        )
    return value
