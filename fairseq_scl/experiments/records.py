"""Result files: one JSON record for each finished run. Nothing else touches them."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

import fairseq_scl
from fairseq_scl.compat.versions import installed_version
from fairseq_scl.data.files import write_json
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Count, Finite, Positive, as_type, read_as

RECORD = "record.json"
REPRESENTATIONS = "representations.json"


class Validation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one validation measured on one subset; losses are averages in nats."""

    update: Count
    correct: Count
    total: Positive
    ce_loss: Finite
    scl_loss: Finite

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        if self.correct > self.total:
            raise ValueError(f"correct is {self.correct}, more than total {self.total}")

    @property
    def accuracy(self) -> float:
        """Accuracy in percent, from the exact counts."""
        return 100 * self.correct / self.total


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished run: its settings, its curve and where it came from.

    Attributes:
        settings: everything that moves the number (loss, λ, τ, seed, sample, …).
        valid: the validations on the validation set, in order of updates.
        test: the same on the test set.
        seconds: wall time of the training command.
        argv: the training command.
        origin: versions, commit, machine, GPU (``None`` on the CPU) and its driver,
            time and checksums.
        representations: measures of the test features of the best model by name, see
            :mod:`~fairseq_scl.experiments.representations`, where a run took them.
    """

    SCHEMA: ClassVar[int] = 1

    settings: dict[str, Any]
    valid: Annotated[list[Validation], Meta(min_length=1)]
    test: Annotated[list[Validation], Meta(min_length=1)]
    seconds: Annotated[float, Meta(ge=0)]
    argv: list[str]
    origin: dict[str, Any]
    representations: dict[str, Finite] | None = None


class _Settings(msgspec.Struct):
    """The settings that reports read; a record has more."""

    seed: Count
    updates: Positive
    scl_lambda: Annotated[float, Meta(ge=0, le=1)]
    scl_temperature: Annotated[float, Meta(gt=0)]
    learning_rate: Annotated[float, Meta(gt=0)]
    cell: dict[str, Any] = {}


class _Origin(msgspec.Struct):
    versions: dict[str, str]
    sha256: dict[str, str]
    commit: str | None = None
    changed_files: Count | None = None
    classes: dict[str, dict[str, Count]] | None = None


class _MetricsLine(msgspec.Struct):
    """The keys of a line of ``--metrics-file`` that a record keeps."""

    subset: str
    update: Count
    n_correct: Finite
    n_total: Finite
    ce_loss: Finite
    scl_loss: Finite


def read_metrics(path: str | Path) -> dict[str, list[Validation]]:
    """Read the file of ``--metrics-file``: validations by subset, in order of updates.

    A run that was resumed may have validated an update twice: the later one counts.

    Raises:
        InputError: a line that is not what the task writes; names file and line.
    """
    found: dict[str, dict[int, Validation]] = {}
    text = Path(path).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            found_there = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not a metrics line") from error
        row = as_type(found_there, _MetricsLine, where)
        values = {
            "update": row.update,
            "correct": int(row.n_correct),
            "total": int(row.n_total),
            "ce_loss": row.ce_loss,
            "scl_loss": row.scl_loss,
        }
        validation = as_type(values, Validation, where)
        found.setdefault(row.subset, {})[row.update] = validation
    return {subset: [rows[u] for u in sorted(rows)] for subset, rows in found.items()}


def read_representations(path: Path) -> dict[str, Finite] | None:
    """Read what a run measured of its representations; ``None`` if it did not."""
    return read_as(path, dict[str, Finite]) if path.is_file() else None


def write_record(folder: str | Path, record: Record) -> None:
    """Write a run's record into its folder, whole or not at all."""
    row = {"schema": Record.SCHEMA, **msgspec.to_builtins(record)}
    write_json(Path(folder, RECORD), row)


def read_record(folder: str | Path) -> Record | None:
    """Read the record of a run's folder; ``None`` if the run has not finished.

    Raises:
        InputError: the record is damaged or of another version of this format.
    """
    path = Path(folder, RECORD)
    if not os.path.lexists(path):
        return None
    record = read_as(path, Record)
    as_type(record.settings, _Settings, f"{path}: settings")
    as_type(record.origin, _Origin, f"{path}: origin")
    return record


def origin(checksums: Mapping[str, str]) -> dict[str, Any]:
    """Describe where a result comes from: versions, commit, machine, time, data."""
    names = ("torch", "numpy", "fairseq", "fairseq-fixed")
    versions = {name: v for name in names if (v := installed_version(name))}
    # Not what is installed, which may be another than what runs.
    versions["fairseq-scl"] = fairseq_scl.__version__
    # An installed package may lie inside another project's repository.
    is_ours = _git(["ls-files", "--error-unmatch", Path(__file__).name]) is not None
    changed = _git(["status", "--porcelain"]) if is_ours else None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": _git(["rev-parse", "HEAD"]) if is_ours else None,
        "changed_files": None if changed is None else len(changed.splitlines()),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "sha256": dict(checksums),
    }


def _git(arguments: Sequence[str]) -> str | None:
    """Ask git about the checkout that this code runs from, ``None`` outside of one."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
