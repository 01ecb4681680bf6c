"""Read the input of prediction as it arrives: lines of text or rows of a table."""

import codecs
import csv
import json
import os
import re
import select
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from fairseq_scl.data.readers import (
    LARGEST_FIELD,
    QUOTED_TSV,
    check_columns,
    check_header,
    json_object,
    text_of,
)
from fairseq_scl.data.texts import check_line_ends, counted, one_line
from fairseq_scl.errors import InputError

FORMATS = ("csv", "tsv", "jsonl")
DELIMITERS = {"csv": ",", QUOTED_TSV: "\t"}
WHOLLY_QUOTED = re.compile('".+"', re.DOTALL).fullmatch
MOMENT_SECONDS = 0.05
BLOCK_BYTES = 1 << 16
EMPTY, NOT_UTF8 = "empty", "not UTF-8"
WITH_NUL = "with NUL characters, as UTF-16 has"
ONE_EMPTY = "with only one of two sentences"
QUOTED = "with quotes around a column, read as text: CSV quoting needs a file"


@dataclass(frozen=True)
class Row:
    """An example to label.

    Attributes:
        number: number of its first line, from 1.
        sentences: one or two sentences; ``None`` without text.
        fields: the columns of a table, or ``text`` with the line.
    """

    number: int
    sentences: tuple[str, ...] | None
    fields: dict[str, Any]


def arriving_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a stream, and ``None`` whenever the input pauses.

    The stream must not have been read from yet. One without a file descriptor, as in a
    test, is read line by line.
    """
    try:
        descriptor = stream.fileno()
    except OSError:
        yield from stream
        return
    parts: list[bytes] = []
    while True:
        if not select.select([descriptor], [], [], MOMENT_SECONDS)[0]:
            yield None
            select.select([descriptor], [], [])
        block = os.read(descriptor, BLOCK_BYTES)
        if not block:
            break
        first, *more = block.split(b"\n")
        parts.append(first)
        for line in more:
            yield b"".join(parts) + b"\n"
            parts = [line]
    if last := b"".join(parts):
        yield last


def rows(
    stream: BinaryIO,
    notes: Counter[str],
    pair: bool,
    columns: Sequence[str] = (),
    format: str = "",
    echo: Sequence[str] = (),
    file: str = "",
) -> Iterator[Row | None]:
    """Read the examples to label.

    Args:
        stream: as for :func:`arriving_lines`; UTF-8.
        notes: counts rows that are ``empty``, lack one of two sentences or, in a
            ``tsv``, have quotes around a text, and lines that are ``not UTF-8`` (their
            invalid bytes are replaced) or have NUL characters.
        pair: whether an example has two sentences, in two columns or separated by a
            tab.
        columns: names of the text columns of a table; empty if each line is an example.
        format: format of a table: ``csv``, ``tsv`` or ``quoted tsv``, with column names
            in the first line, or ``jsonl``.
        echo: names of further columns that each row of a table must have.
        file: name of the file for messages; empty for standard input.

    Yields:
        rows in order, and ``None`` whenever the input pauses.

    Raises:
        InputError: a row is invalid; names the file and its line.
    """
    if columns and len(columns) != 1 + pair:
        raise InputError(
            f"--columns names {counted(len(columns), 'column')}, but this model takes "
            f"{'two sentences' if pair else 'one sentence'}"
        )
    lines = _decoded(arriving_lines(stream), notes)
    if columns:
        read = _of_table(lines, columns, [*columns, *echo], format)
    else:
        read = _of_lines(lines, pair)
    for row in _naming(file, read):
        if row is not None:
            texts = row.sentences or ()
            notes[EMPTY] += not texts
            notes[ONE_EMPTY] += bool(texts) and not all(map(one_line, texts))
            notes[QUOTED] += format == "tsv" and any(map(WHOLLY_QUOTED, texts))
        yield row


def _naming(file: str, read: Iterator[Row | None]) -> Iterator[Row | None]:
    """Name the file in errors, which begin with the line."""
    try:
        yield from read
    except InputError as error:
        raise InputError(f"{file}, {error}" if file else str(error)) from None


def _decoded(
    lines: Iterator[bytes | None], notes: Counter[str]
) -> Iterator[tuple[int, str] | None]:
    number = 0
    for line in lines:
        if line is None:
            yield None
            continue
        number += 1
        line = line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        text = line.rstrip(b"\r\n").decode("utf-8", errors="replace")
        notes[WITH_NUL] += "\0" in text
        notes[NOT_UTF8] += "\ufffd" in text and b"\xef\xbf\xbd" not in line
        yield number, text


def _of_lines(
    lines: Iterator[tuple[int, str] | None], pair: bool
) -> Iterator[Row | None]:
    for line in lines:
        if line is None:
            yield None
            continue
        number, text = line
        sentences = tuple(text.split("\t")) if pair else (text,)
        if text.strip() and len(sentences) != 1 + pair:
            raise InputError(
                f"line {number} has {counted(len(sentences), 'column')}, but this "
                "model takes two sentences separated by a tab"
            )
        yield Row(number, sentences if text.strip() else None, {"text": text})


def _of_table(
    lines: Iterator[tuple[int, str] | None],
    columns: Sequence[str],
    wanted: Sequence[str],
    format: str,
) -> Iterator[Row | None]:
    names: list[str] = []
    for record in _records(lines, format):
        if record is None:
            yield None
            continue
        number, values = record
        if format != "jsonl" and not names:
            names = [str(value) for value in values]
            check_header(f"line {number}", wanted, names)
            continue
        if format != "jsonl" and len(values) != len(names):
            raise InputError(
                f"line {number} has {counted(len(values), 'column')}, expected "
                f"{len(names)} ({', '.join(names)})"
            )
        named = values if format == "jsonl" else dict(zip(names, values, strict=True))
        check_columns(f"line {number}", wanted, named)
        texts = tuple(text_of(named, column, f"line {number}") for column in columns)
        yield Row(number, texts if any(map(one_line, texts)) else None, named)
    if format != "jsonl" and not names:
        raise InputError("line 1 is missing: it must name the columns")


def _records(
    lines: Iterator[tuple[int, str] | None], format: str
) -> Iterator[tuple[int, Any] | None]:
    """Yield the rows of a table: lists of values, or objects of JSON lines."""
    start, parts = 0, list[str]()  # of a row that is incomplete so far
    for line in lines:
        if line is None:
            yield None
            continue
        number, more = line
        start = start if parts else number
        parts.append(more)
        if start < number and '"' not in more:  # still inside a quote
            continue
        text = "\n".join(parts)
        record = _record(start, text, format) if text.strip() else None
        if record is not None:
            yield start, record
        if record is not None or not text.strip():
            parts.clear()
    if parts:
        raise InputError(f"line {start} opens a quote that is not closed")


def _record(number: int, text: str, format: str) -> Any:
    """Parse the row that begins in a line; ``None`` if ``text`` is incomplete."""
    if format == "tsv":
        if number == 1:
            check_line_ends(text, "line 1")
        return text.split("\t")
    try:
        if format in DELIMITERS:
            csv.field_size_limit(LARGEST_FIELD)
            delimiter = DELIMITERS[format]
            return next(csv.reader([text], strict=True, delimiter=delimiter))
        found = json.loads(
            text, parse_constant=_not_json, object_pairs_hook=json_object
        )
    except RecursionError:
        raise InputError(f"line {number} is not JSONL: too deeply nested") from None
    except (csv.Error, ValueError) as error:
        if "unexpected end of data" in str(error):
            return None
        check_line_ends(text, f"line {number}")
        raise InputError(f"line {number} is not {format.upper()}: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"line {number} is not a JSON object with names and values")
    return found


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
