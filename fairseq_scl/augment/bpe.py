"""BPE of fastBPE and subword-nmt.

Both implement Sennrich et al. (2016): in each word, repeatedly merge the pair of
symbols that was learned first, until there is none left. fastBPE's files have one more
column. Its package has to be compiled; if it is missing, subword-nmt, which is pure
Python, applies the merges with the same output.
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
    """Return a function that splits the words of a text into pieces, as ``wo@@ rd``.

    Args:
        path: a file of merges, published by fairseq as ``bpecodes``. For fastBPE, each
            line has two symbols and a count. For subword-nmt, each line has two symbols
            after a first line with the version; without that line it is version 0.1.
        kind: ``fastbpe`` or ``subword_nmt``.

    Raises:
        InputError: the file is missing or is not of this kind.
    """
    lines = _lines(path)
    version, first = "0.2", 1  # fastBPE marks the end of a word as subword-nmt 0.2
    if kind == SUBWORD_NMT:
        version = "0.1"
        if lines[0].startswith(VERSION):
            version, first = re.sub(r"(\.0+)*$", "", lines[0].split()[-1]), 2
        if version not in ("0.1", "0.2"):
            raise InputError(
                f"{path}, line 1: version is {version!r}, it must be 0.1 or 0.2"
            )
    merges: dict[str, int] = {}
    for number, line in enumerate(lines[first - 1 :], start=first):
        columns = _columns(line, kind)
        if len(columns) != COLUMNS[kind]:
            shape = "two symbols" + (" and a count" if kind == FASTBPE else "")
            other = SUBWORD_NMT if kind == FASTBPE else FASTBPE
            is_other = number == 1 and kind_of_bpe(path) == other
            hint = f"; it is a file for --bpe {other}" if is_other else ""
            raise InputError(
                f"{path}, line {number} is {line!r}, but {kind} has {shape}{hint}"
            )
        merge = " ".join(columns[:2])
        if kind == FASTBPE and merge in merges:
            raise InputError(f"{path}, line {number}: {line!r} occurs twice")
        merges.setdefault(merge, number)  # subword-nmt uses the first of two
    if not merges:
        raise InputError(f"{path} has no merges")
    if kind == FASTBPE:
        # Checked above because the package exits the process on an invalid file.
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
    """Return ``fastbpe`` or ``subword_nmt`` by the first line, ``None`` if neither.

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
        raise InputError(f"{path} is not UTF-8, so not a file of BPE codes") from error
    except OSError as error:
        reason = "missing file" if not path.exists() else "cannot read"
        raise InputError(f"{reason}: {path}") from error
    return text.removesuffix("\n").split("\n")


def _columns(line: str, kind: str) -> list[str]:
    if kind == SUBWORD_NMT:
        return line.strip("\r\n ").split(" ")
    return [column for column in line.split(" ") if column]
