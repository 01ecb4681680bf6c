"""Telling a ``.tsv`` with quoted fields, as pandas writes it, from one with quotes."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

FIELD = rb'"(?:[^"]|"")*"|[^"\t]*'
RECORD = re.compile(rb"(?:(?:%b)\t)*(?:%b)" % (FIELD, FIELD))
FIELDS = re.compile(rb"(?:\A|\t)(%b)(?=\t|\Z)" % FIELD)
NEEDS_QUOTES = re.compile(rb'""|[\t\n]')


def is_quoted(path: Path) -> bool:
    """Tell whether the fields of a tab-separated file are quoted as in CSV.

    A quote is a character like any other in GLUE's files and in most corpora, hence
    both must hold:

    - Each quote of the file belongs to a field that begins and ends with one and has
      the others doubled, and all rows, cut so, have as many fields.
    - A quoted field has a doubled quote, a tab or a line break inside, or all fields of
      the first line or of a column are quoted.

    Args:
        path: a file; one that is missing is not quoted.
    """
    if not path.is_file():
        return False
    quoted: list[bool] = []
    needed, rows = False, 0
    for record in filter(None, _records(path)):
        if not RECORD.fullmatch(record):
            return False
        fields = FIELDS.findall(record)
        marks = [len(f) > 1 and f.startswith(b'"') for f in fields]
        if rows and len(marks) != len(quoted):
            return False
        lines = record.split(b"\n")
        if len(lines) > 1 and all(x.count(b"\t") == len(marks) - 1 for x in lines):
            return False  # each line is a row by itself
        rows += 1
        if rows <= 2:  # the header counts by itself, the first row begins the columns
            needed |= rows == 1 and all(marks)
            quoted = marks
        quoted = [a and b for a, b in zip(quoted, marks, strict=True)]
        needed |= any(
            NEEDS_QUOTES.search(f[1:-1])
            for f, m in zip(fields, marks, strict=True)
            if m
        )
    return needed or (rows > 2 and any(quoted))


def _records(path: Path) -> Iterator[bytes]:
    """Yield lines, joined until their quotes are closed."""
    waiting: list[bytes] = []
    quotes = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            quotes += line.count(b'"')
            waiting.append(line)
            if quotes % 2 == 0:
                yield b"".join(waiting).rstrip(b"\r\n")
                waiting, quotes = [], 0
    if waiting:
        yield b"".join(waiting).rstrip(b"\r\n")
