"""BPE of fastBPE and subword-nmt, applied in Python with the same output.

Both packages do what Sennrich et al. (2016) describe: merge, in each word, the pair of
symbols that was learnt first, wherever it stands, until none is left. They differ in
their files and in how the end of a word is marked.
"""

import functools
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from fairseq_scl.errors import InputError

FASTBPE, SUBWORD_NMT = "fastbpe", "subword_nmt"
END = "</w>"
SEPARATOR = "@@"
VERSION = "#version:"
COLUMNS = {FASTBPE: 3, SUBWORD_NMT: 2}


class BpeMerges:
    """Merges in the order in which they were learnt."""

    def __init__(
        self, kind: str, ranks: Mapping[tuple[str, str], int], end_is_symbol: bool
    ) -> None:
        """Take the merges.

        Args:
            kind: ``fastbpe`` or ``subword_nmt``.
            ranks: the place of each pair in the file; a smaller one is merged first.
            end_is_symbol: whether the end of a word is a symbol of its own, as in the
                first version of subword-nmt, or part of the last character.
        """
        self._kind, self._ranks, self._end_is_symbol = kind, ranks, end_is_symbol
        self._cut = functools.lru_cache(1 << 16)(self._cut_word)

    def apply(self, text: str) -> str:
        """Cut the words of a text, as ``wo@@ rd``.

        Args:
            text: words with blanks between them.

        Returns:
            its pieces with blanks between them.
        """
        if self._kind == SUBWORD_NMT:
            text = text.strip("\r\n ")
        return " ".join(self._cut(word) for word in text.split(" ") if word)

    def _cut_word(self, word: str) -> str:
        if self._kind == SUBWORD_NMT and len(word) == 1:
            return word
        symbols = self._characters(word)
        while len(symbols) > 1:
            pairs = self._ranks.keys() & itertools.pairwise(symbols)
            if not pairs:
                break
            symbols = _merge(symbols, min(pairs, key=self._ranks.__getitem__))
        if symbols[-1] == END:
            symbols.pop()
        else:
            symbols[-1] = symbols[-1].removesuffix(END)
        return f"{SEPARATOR} ".join(symbols)

    def _characters(self, word: str) -> list[str]:
        # For fastBPE, in C++, characters end at a NUL; what follows is left whole.
        head, rest = word, ""
        if self._kind == FASTBPE and "\0" in word:
            place = word.index("\0")
            head, rest = word[:place], word[place:]
        symbols = list(head) or [""]
        if self._end_is_symbol:
            return [*symbols, END]
        symbols[-1] += rest + END
        return symbols


def read_bpe_merges(path: Path, kind: str) -> BpeMerges:
    """Read a file of merges.

    fastBPE writes three columns (two symbols and a count). subword-nmt writes two,
    after a line with its version; files without that line are of its first version.

    Args:
        path: the file, which fairseq publishes as ``bpecodes``.
        kind: ``fastbpe`` or ``subword_nmt``.

    Raises:
        InputError: the file is missing or is not of this kind.
    """
    lines = _lines(path)
    end_is_symbol = False
    first = 1
    if kind == SUBWORD_NMT:
        version = _version(path, lines[0])
        first += version is not None
        end_is_symbol = version in (None, "0.1")
    ranks: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines[first - 1 :], start=first):
        columns = _columns(line, kind)
        if len(columns) != COLUMNS[kind]:
            raise InputError(_wrong_line(path, number, line, kind))
        pair = (columns[0], columns[1])
        if kind == FASTBPE and pair in ranks:
            raise InputError(f"{path}, line {number}: {line!r} is there twice")
        ranks.setdefault(pair, len(ranks))
    return BpeMerges(kind, ranks, end_is_symbol)


def kind_of_bpe(path: Path) -> str | None:
    """Tell ``fastbpe`` from ``subword_nmt`` by the first line, ``None`` if neither.

    Raises:
        InputError: the file is missing or not UTF-8.
    """
    line = _lines(path)[0]
    if line.startswith(VERSION):
        return SUBWORD_NMT
    kinds = (k for k, n in COLUMNS.items() if len(_columns(line, k)) == n)
    return next(kinds, None)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no file of BPE codes: not UTF-8") from error
    except OSError as error:
        reason = "missing file" if not path.exists() else "cannot read"
        raise InputError(f"{reason}: {path}") from error
    return text.removesuffix("\n").split("\n")


def _columns(line: str, kind: str) -> list[str]:
    if kind == SUBWORD_NMT:
        return line.strip("\r\n ").split(" ")
    return [column for column in line.split(" ") if column]


def _version(path: Path, line: str) -> str | None:
    """Return the version in a header of subword-nmt, ``None`` if there is no header."""
    if not line.startswith(VERSION):
        return None
    version = re.sub(r"(\.0+)*$", "", line.split()[-1])
    if version not in ("0.1", "0.2"):
        raise InputError(f"{path}, line 1: version is {version!r}, not 0.1 or 0.2")
    return version


def _wrong_line(path: Path, number: int, line: str, kind: str) -> str:
    columns = "two symbols" + (" and a count" if kind == FASTBPE else "")
    other = SUBWORD_NMT if kind == FASTBPE else FASTBPE
    hint = ""
    if number == 1 and kind_of_bpe(path) == other:
        hint = f"; it is a file for --bpe {other}"
    return f"{path}, line {number}: {line!r}, but {kind} has {columns}{hint}"


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Join a pair wherever it stands, from the left, without overlaps."""
    merged = []
    position = 0
    while position < len(symbols):
        here = tuple(symbols[position : position + 2])
        merged.append("".join(here) if here == pair else symbols[position])
        position += 2 if here == pair else 1
    return merged
