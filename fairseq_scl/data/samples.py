"""The paper's splits and few-shot samples, from files of any length.

Each file is read row by row, once to count its classes and once to collect the drawn
rows. Only few-shot samples are held in memory.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.files import sha256
from fairseq_scl.data.flips import Flipped, check_share, flipped_folder
from fairseq_scl.data.folders import DATA, folders_then_rename
from fairseq_scl.data.official_files import check_size, task_table
from fairseq_scl.data.readers import Row, TableFile
from fairseq_scl.data.splits import stratified_ranks, test_and_valid
from fairseq_scl.data.suspects import Checks, TextIndex, check_labels, repeated_texts
from fairseq_scl.data.tasks import HELD_OUT, TRAIN, Task
from fairseq_scl.data.texts import Example, class_names, hashed_line
from fairseq_scl.errors import InputError

FULL = "full"
DEFAULT = Checks()
Ranks = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Draw:
    """What to draw; the defaults are the paper's (section 4.1).

    Attributes:
        few_shot: sizes of the few-shot samples, over all classes.
        full: whether to prepare the whole training set.
        samples: number of few-shot samples per size.
        seed: seed of the split and, together with size and number, of each sample.
        size_valid: number of validation examples, or those left by the test set if
            these are fewer.
        size_test: number of test examples; by default half of the original validation
            set or, if there is none, as many as for validation.
        balanced: whether few-shot samples have the same number of examples per class;
            otherwise they have the label distribution of the training set.
        partial: whether official files may be incomplete.
        flipped: shares of training labels to flip, each for a data folder of its own; 0
            keeps the labels.
    """

    few_shot: tuple[int, ...] = ()
    full: bool = True
    samples: int = 10
    seed: int = 0
    size_valid: int = 500
    size_test: int | None = None
    balanced: bool = False
    partial: bool = False
    flipped: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Source:
    """The files that splits and samples are drawn from.

    Attributes:
        name: name of the source in ``draw.json``.
        train: the training set.
        held_out: the original validation set; without one, validation and test sets
            are drawn and removed from ``train``.
        task: the task, if these are its official files.
    """

    name: str
    train: TableFile
    held_out: TableFile | None = None
    task: Task | None = None

    @classmethod
    def of_task(cls, task: Task, folder: str | Path) -> "Source":
        """Find the official files of a task in a folder.

        Raises:
            InputError: a file is missing.
        """
        files = [task_table(task, folder, part) for part in (TRAIN, HELD_OUT)]
        return cls(task.name, files[0], files[1], task)

    @property
    def files(self) -> dict[str, TableFile]:
        """The files by part."""
        files = {TRAIN: self.train, HELD_OUT: self.held_out}
        return {part: file for part, file in files.items() if file is not None}


class Chosen:
    """The rows of a table whose rank in their class was drawn, or all other rows."""

    def __init__(
        self,
        rows: Iterable[Row],
        counts: Mapping[str, int],
        drawn: Iterable[Ranks],
        invert: bool = False,
    ) -> None:
        """Select from ``rows``, which can be iterated repeatedly."""
        self._rows = rows
        self._masks = {}
        for label, count in counts.items():
            mask = np.full(count, invert)
            for ranks in drawn:
                mask[ranks[label]] = not invert
            self._masks[label] = mask.tobytes()

    def __iter__(self) -> Iterator[Row]:
        """Yield line and example of the selected rows, in the order of the table."""
        seen: Counter[str] = Counter()
        for row in self._rows:
            label = row[1].label
            if self._masks[label][seen[label]]:
                yield row
            seen[label] += 1


class Split:
    """The examples of one split; ``index`` describes the latest pass."""

    def __init__(self, rows: Iterable[Row], file: Path) -> None:
        """Take ``rows`` of ``file``, which can be iterated repeatedly."""
        self._rows, self._file = rows, file
        self.index, self._sha256 = TextIndex(file), ""

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples."""
        index, digest = TextIndex(self._file), hashlib.sha256()
        for line, example in self._rows:
            index.add(line, example)
            digest.update(hashed_line(example))
            yield example
        self.index, self._sha256 = index, digest.hexdigest()

    def describe(self) -> dict[str, object]:
        """Return file, lines and checksum of the examples of the latest pass."""
        return {
            "file": self._file.name,
            "examples": len(self.index.lines),
            "lines": line_ranges(self.index.lines),
            "sha256": self._sha256,
        }


def prepare_samples(
    source: Source,
    encoder: str | Path,
    target: str | Path,
    draw: Draw,
    on_written: Callable[[Path, Mapping[str, int]], None],
    checks: Checks = DEFAULT,
) -> None:
    """Draw the splits and samples of section 4.1 and write a data folder for each.

    ``full/`` has the whole training set, ``n20-sample0/`` the first sample of 20
    examples, and ``n20-sample0-flip0.1/`` the same sample with 10% of its labels
    flipped. The validation and test sets are drawn once and shared by all folders. Each
    folder's ``draw.json`` records files, lines, seeds and checksums. Existing folders
    are replaced once all are complete; then ``on_written`` is called with each data
    folder and its number of examples.

    Raises:
        InputError: a file cannot be read or has an unexpected number of rows, the data
            does not allow the sizes, or a class has no example.
    """
    for share in draw.flipped:
        check_share(share)
    parts = {part: _read_counts(source, part, draw, checks) for part in source.files}
    if len({part["sha256"] for part in parts.values()}) < len(parts):
        raise InputError(
            f"{source.train.path} and {source.files[HELD_OUT].path} are the same file: "
            "use different examples for training and evaluation"
        )
    labels = class_names(parts[TRAIN]["classes"])
    held_out, pool, pool_counts = _held_out(source, parts, draw)
    drawn: dict[str, Ranks] = {}
    for size, number in product(draw.few_shot, range(draw.samples)):
        seed = [draw.seed, size, number]
        try:
            ranks = stratified_ranks(pool_counts, [size], seed, draw.balanced)
        except InputError as error:
            raise InputError(f"--few-shot {size}: {error}") from error
        drawn[f"n{size}-sample{number}"] = ranks[0]
    splits: dict[str, Iterable[Row]] = {FULL: pool} if draw.full else {}
    splits.update(_collect(pool, drawn) if drawn else {})
    linked: dict[str, Path] = {}
    notes: set[str] = set()
    chosen = list(product(splits.items(), draw.flipped))
    paths = [Path(target, flipped_folder(name, share)) for (name, _), share in chosen]
    inputs = [encoder, *(table.path for table in source.files.values())]
    written = []
    with folders_then_rename(paths, DATA, inputs) as places:
        for ((name, rows), share), folder in zip(chosen, places, strict=True):
            # Size and number of a sample are part of its seed; "full" has neither.
            numbers = map(int, re.findall(r"\d+", name))
            flipped = Flipped(rows, share, [draw.seed, *numbers])
            every = {"train": Split(flipped, source.train.path), **held_out}
            counts = binarize(
                {s: examples for s, examples in every.items() if s not in linked},
                encoder,
                folder,
                labels,
                linked,
                partial(_record, source.name, name, draw, parts, every, flipped),
                checks.max_unknown,
            )
            linked = linked or dict.fromkeys(held_out, folder)
            written.append(counts)
            texts = {f"train of {folder.name}": every["train"].index}
            texts |= {split: held_out[split].index for split in held_out}
            found = set(repeated_texts(texts, labels=not share))
            for note in sorted(found - notes):
                checks.note(note)
            notes |= found
    for path, counts in zip(paths, written, strict=True):
        on_written(path, counts)


def _record(
    source: str,
    sample: str,
    draw: Draw,
    parts: Mapping[str, Any],
    splits: Mapping[str, Split],
    flipped: Flipped,
) -> dict[str, object]:
    """Record the origin of a data folder's examples, independent of the encoder."""
    return {
        **flipped.describe(),
        "schema": 1,
        "source": source,
        "sample": sample,
        "seed": draw.seed,
        "balanced": draw.balanced,
        "files": parts,
        "splits": {split: examples.describe() for split, examples in splits.items()},
    }


def _read_counts(
    source: Source, part: str, draw: Draw, checks: Checks
) -> dict[str, Any]:
    table = source.files[part]
    classes: Counter[str] = Counter()
    first: dict[str, str] = {}
    for _, example in table:
        classes[example.label] += 1
        first.setdefault(example.label, example.origin)
    rows = classes.total() + table.left_out.total()
    if rows == 0:
        raise InputError(f"{table.path} has no rows")
    if source.task is not None:
        if not draw.partial:
            check_size(source.task, part, table, rows)
        for label in source.task.layout.labels.values():
            if label not in classes:
                raise InputError(f"{table.path} has no example of the class {label!r}")
    elif part == TRAIN:
        check_labels(classes, first, checks)
    return {
        "file": table.path.name,
        "sha256": sha256(table.path),
        "rows": rows,
        "left_out": dict(table.left_out),
        "classes": dict(classes),
    }


def _held_out(
    source: Source, parts: Mapping[str, Any], draw: Draw
) -> tuple[dict[str, Split], Iterable[Row], Mapping[str, int]]:
    """Draw the test and validation sets; also return the remaining rows and counts."""
    table = source.train if source.held_out is None else source.held_out
    counts = parts[TRAIN if source.held_out is None else HELD_OUT]["classes"]
    total, size_valid = sum(counts.values()), draw.size_valid
    if source.held_out is None:
        size_test = draw.size_test or size_valid
    else:
        size_test = draw.size_test or (total + 1) // 2
        # "~ 500" in the paper; for SST-2, 436 examples remain.
        size_valid = min(size_valid, max(total - size_test, 1))
    sizes, whole = (size_test, size_valid), source.held_out is not None
    try:
        test, valid = test_and_valid(counts, sizes, draw.seed, whole)
    except InputError as error:
        raise InputError(f"{table.path} has {total} rows: {error}") from error
    held_out = {
        "valid": Split(Chosen(table, counts, [valid]), table.path),
        "test": Split(Chosen(table, counts, [test]), table.path),
    }
    if source.held_out is not None:
        return held_out, source.train, parts[TRAIN]["classes"]
    left = {n: counts[n] - len(test[n]) - len(valid[n]) for n in counts}
    return held_out, Chosen(table, counts, [test, valid], invert=True), left


def _collect(rows: Iterable[Row], samples: Mapping[str, Ranks]) -> dict[str, list[Row]]:
    """Read all samples in one pass."""
    wanted: dict[tuple[str, int], list[str]] = {}
    for name, ranks in samples.items():
        for label, drawn in ranks.items():
            for rank in drawn:
                wanted.setdefault((label, int(rank)), []).append(name)
    collected: dict[str, list[Row]] = {name: [] for name in samples}
    seen: Counter[str] = Counter()
    for row in rows:
        label = row[1].label
        for name in wanted.get((label, seen[label]), ()):
            collected[name].append(row)
        seen[label] += 1
    return collected


def line_ranges(lines: Iterable[int]) -> str:
    """Format ascending numbers as ranges: ``2-4,9`` for 2, 3, 4 and 9."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
