"""BPE of fastBPE and subword-nmt.

Both do what Sennrich et al. (2016) describe: merge, in each word, the pair of symbols
that was learnt first, wherever it stands, until none is left. fastBPE's files have a
column more. Its package has to be compiled; where it is missing, subword-nmt, which is
Python, applies its merges with the same output.
"""

import importlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subword_nmt.apply_bpe import BPE

from fairseq_scl.errors import InputError

FASTBPE, SUBWORD_NMT = "fastbpe", "subword_nmt"
SEPARATOR = "@@"
VERSION = "#version:"
COLUMNS = {FASTBPE: 3, SUBWORD_NMT: 2}


def load_bpe(path: Path, kind: str) -> Callable[[str], str]:
    """Return what cuts the words of a text into pieces, as ``wo@@ rd``.

    Args:
        path: a file of merges, which fairseq publishes as ``bpecodes``: two symbols and
            a count per line for fastBPE, two symbols for subword-nmt, after a line with
            its version; files without that line are of its first version.
        kind: ``fastbpe`` or ``subword_nmt``.

    Raises:
        InputError: the file is missing or is not of this kind.
    """
    lines = _lines(path)
    version, first = "0.2", 1  # words of fastBPE end as those of subword-nmt 0.2
    if kind == SUBWORD_NMT:
        version = "0.1"
        if lines[0].startswith(VERSION):
            version, first = re.sub(r"(\.0+)*$", "", lines[0].split()[-1]), 2
        if version not in ("0.1", "0.2"):
            raise InputError(f"{path}, line 1: version is {version!r}, not 0.1 or 0.2")
    merges: dict[str, int] = {}
    for number, line in enumerate(lines[first - 1 :], start=first):
        columns = _columns(line, kind)
        if len(columns) != COLUMNS[kind]:
            raise InputError(_wrong_line(path, number, line, kind))
        merge = " ".join(columns[:2])
        if kind == FASTBPE and merge in merges:
            raise InputError(f"{path}, line {number}: {line!r} is there twice")
        merges.setdefault(merge, number)  # the first of two counts in subword-nmt
    if not merges:
        raise InputError(f"{path} holds no merges")
    if kind == FASTBPE:
        # The package ends the whole process at a file that it cannot use.
        try:
            package: Any = importlib.import_module("fastBPE")
        except ImportError:
            pass
        else:
            compiled = package.fastBPE(str(path))
            return lambda text: compiled.apply([text])[0]
    text = "\n".join([f"{VERSION} {version}", *merges])
    cut: Callable[[str], str] = BPE(io.StringIO(text), separator=SEPARATOR).segment
    return cut


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
        raise InputError(f"{path} is not a file of BPE codes: not UTF-8") from error
    except OSError as error:
        reason = "missing file" if not path.exists() else "cannot read"
        raise InputError(f"{reason}: {path}") from error
    return text.removesuffix("\n").split("\n")


def _columns(line: str, kind: str) -> list[str]:
    if kind == SUBWORD_NMT:
        return line.strip("\r\n ").split(" ")
    return [column for column in line.split(" ") if column]


def _wrong_line(path: Path, number: int, line: str, kind: str) -> str:
    columns = "two symbols" + (" and a count" if kind == FASTBPE else "")
    other = SUBWORD_NMT if kind == FASTBPE else FASTBPE
    hint = ""
    if number == 1 and kind_of_bpe(path) == other:
        hint = f"; it is a file for --bpe {other}"
    return f"{path}, line {number}: {line!r}, but {kind} has {columns}{hint}"
