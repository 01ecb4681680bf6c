"""Detect quoted fields in a ``.tsv``, as pandas writes them, and wrong separators."""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

# Possessive, since backtracking would need a hundred bytes of memory per character.
FIELD = rb'"[^"]*+(?:""[^"]*+)*+"|[^"\t]*+'
RECORD = re.compile(rb"(?:(?:%b)\t)*+(?:%b)" % (FIELD, FIELD))
FIELDS = re.compile(rb"(?:\A|\t)(%b)(?=\t|\Z)" % FIELD)
NEEDS_QUOTES = re.compile(rb'""|[\t\n]')


def is_quoted(path: Path) -> bool:
    """Return whether a tab-separated file exists and its fields are quoted as in CSV.

    In GLUE's files and most corpora a quote is an ordinary character. Therefore both of
    these conditions must hold:

    - Every quote in the file belongs to a field that begins and ends with a quote and
      doubles the quotes inside, and all rows then have the same number of fields.
    - A quoted field contains a doubled quote, a tab or a line break, or all fields of
      the first line or of a column are quoted.
    """
    if not path.is_file():
        return False
    quoted: list[bool] = []
    needed, rows = False, 0
    for record in filter(bytes.strip, _records(path)):
        if not RECORD.fullmatch(record):
            return False
        fields = FIELDS.findall(record)
        marks = [len(f) > 1 and f.startswith(b'"') for f in fields]
        if rows and len(marks) != len(quoted):
            return False
        lines = record.split(b"\n")
        if len(lines) > 1 and all(x.count(b"\t") == len(marks) - 1 for x in lines):
            return False  # each line is a complete row
        rows += 1
        if rows <= 2:  # the header is judged alone; columns start with the first row
            needed |= rows == 1 and all(marks)
            quoted = marks
        quoted = [a and b for a, b in zip(quoted, marks, strict=True)]
        needed |= any(
            NEEDS_QUOTES.search(f[1:-1])
            for f, m in zip(fields, marks, strict=True)
            if m
        )
    return needed or (rows > 2 and any(quoted))


def open_quote_hint(values: Sequence[str]) -> str:
    """Return a hint if an open quote may explain a wrong number of columns."""
    if any(v.startswith('"') and v.count('"') % 2 for v in values):
        return (
            ": the line ends inside a quote, and a .tsv may have line breaks or tabs "
            "in quotes only if all its quotes follow the rules of CSV; fix the quotes "
            "or save the file as .csv"
        )
    return ""


def separator_hint(names: Sequence[str]) -> str:
    """Return a hint if a single column may be several, with other separators."""
    if len(names) != 1 or not (cut := re.search(r"[,;|\t]", names[0])):
        return ""
    return (
        f"; the columns seem to be separated by {cut[0]!r}, but a .tsv needs tabs and "
        "a .csv needs commas"
    )


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
