"""Read fairseq's dictionaries, ``.bin`` and ``.idx`` files, with validation."""

from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary, indexed_dataset

from fairseq_scl.errors import InputError

MAGIC = b"MMIDIDX\0\0"
HEADER = len(MAGIC) + 8 + 1 + 8  # magic, version, dtype, count
PER_ROW = 4 + 8  # size, offset
# Folders with the views of the training examples, for --scl-views.
VIEWS = ("view0", "view1")


def load_dictionary(path: str | Path) -> Dictionary:
    """Load a fairseq dictionary with the ``<mask>`` that the task appends.

    Raises:
        InputError: the file is missing, cannot be read or is not a dictionary.
    """
    if not Path(path).is_file():
        raise InputError(f"missing dictionary: {path}")
    try:
        dictionary = Dictionary.load(str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # what fairseq raises for a wrong encoding
        why = " ".join(str(error).split())
        raise InputError(f"{path} is not a fairseq dictionary: {why}") from error
    dictionary.add_symbol("<mask>")
    return dictionary


def open_rows(path: str | Path, symbols: int | None) -> Any:
    """Open the rows of a split, indexable by number; each is ``(T,)`` int32 ids.

    Args:
        path: path without ``.bin`` and ``.idx``.
        symbols: size of the dictionary, which all ids must be below; ``None`` skips
            this check.

    Raises:
        InputError: a file is missing or damaged, or the two do not match; the message
            names the file and what was found.
    """
    index, content = Path(f"{path}.idx"), Path(f"{path}.bin")
    for file in (index, content):
        if not file.is_file():
            raise InputError(f"missing file: {file}")
    with index.open("rb") as opened:
        header = opened.read(HEADER)
    if not header.startswith(MAGIC):
        raise InputError(
            f"{index} does not start like an index of fairseq-preprocess "
            "--dataset-impl mmap, its default and the only format that is read"
        )
    _check(index, content, header, symbols)
    return indexed_dataset.make_dataset(str(path), impl="mmap")


def _check(index: Path, content: Path, header: bytes, symbols: int | None) -> None:
    if len(header) < HEADER:
        raise InputError(f"{index} is damaged: it has {len(header)} bytes")
    count = int.from_bytes(header[-8:], "little")
    size = index.stat().st_size
    if size != HEADER + PER_ROW * count:
        raise InputError(
            f"{index} is damaged: it has {size} bytes, but its {count} rows need "
            f"{HEADER + PER_ROW * count}"
        )
    number = indexed_dataset._code_to_dtype.get(header[len(MAGIC) + 8])
    if header[len(MAGIC)] != 1 or number is None or np.dtype(number).kind not in "iu":
        raise InputError(f"{index} is damaged: unknown version or dtype")
    sizes = np.fromfile(index, np.int32, count, offset=HEADER).astype(np.int64)
    starts = np.fromfile(index, np.int64, count, offset=HEADER + 4 * count)
    ends = np.cumsum(sizes) * np.dtype(number).itemsize
    if (sizes < 1).any() or (starts[1:] != ends[:-1]).any() or starts[:1].any():
        raise InputError(f"{index} is damaged: its rows are not consecutive")
    wanted, there = int(ends[-1]) if count else 0, content.stat().st_size
    if wanted != there:
        raise InputError(
            f"{content} has {there} bytes, but the rows of {index.name} need {wanted}"
        )
    if symbols is None or not count:
        return
    ids = np.memmap(content, number, mode="r")
    if (least := int(ids.min())) < 0 or (most := int(ids.max())) >= symbols:
        found = least if least < 0 else most
        raise InputError(
            f"{content} has the id {found}, but its dictionary has {symbols} symbols"
        )
