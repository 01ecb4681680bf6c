"""Result files: one JSON record for each finished run. Nothing else touches them."""

import datetime
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fairseq_scl
from fairseq_scl.compat.versions import installed_version
from fairseq_scl.data.files import read_json, write_json
from fairseq_scl.errors import InputError

SCHEMA = 1
RECORD = "record.json"
REPRESENTATIONS = "representations.json"


@dataclass(frozen=True)
class Validation:
    """What one validation measured on one subset; losses are averages in nats."""

    update: int
    correct: int
    total: int
    ce_loss: float
    scl_loss: float

    @property
    def accuracy(self) -> float:
        """Accuracy in percent, from the exact counts."""
        return 100 * self.correct / self.total


@dataclass(frozen=True)
class Record:
    """A finished run: its settings, its curve and where it came from.

    Attributes:
        settings: everything that moves the number (loss, λ, τ, seed, sample, …).
        valid: the validations on the validation set, in order of updates.
        test: the same on the test set.
        seconds: wall time of the training command.
        argv: the training command.
        origin: versions, commit, machine, time and checksums.
        representations: measures of the test features of the best model by name, see
            :mod:`~fairseq_scl.experiments.representations`, where a run took them.
    """

    settings: dict[str, Any]
    valid: list[Validation]
    test: list[Validation]
    seconds: float
    argv: list[str]
    origin: dict[str, Any]
    representations: dict[str, float] | None = None


def read_metrics(path: str | Path) -> dict[str, list[Validation]]:
    """Read the file of ``--metrics-file``: validations by subset, in order of updates.

    A run that was resumed may have validated an update twice: the later one counts.

    Raises:
        InputError: a line that is not what the task writes; names file and line.
    """
    found: dict[str, dict[int, Validation]] = {}
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            validation = Validation(
                update=row["update"],
                correct=int(row["n_correct"]),
                total=int(row["n_total"]),
                ce_loss=row["ce_loss"],
                scl_loss=row["scl_loss"],
            )
            found.setdefault(row["subset"], {})[row["update"]] = validation
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number} is no metrics line") from error
    return {subset: [rows[u] for u in sorted(rows)] for subset, rows in found.items()}


def read_representations(path: Path) -> dict[str, float] | None:
    """Read what a run measured of its representations; ``None`` if it did not."""
    return dict(read_json(path)) if path.is_file() else None


def write_record(folder: str | Path, record: Record) -> None:
    """Write a run's record into its folder, whole or not at all."""
    write_json(Path(folder, RECORD), {"schema": SCHEMA, **asdict(record)})


def read_record(folder: str | Path) -> Record | None:
    """Read the record of a run's folder; ``None`` if the run has not finished.

    Raises:
        InputError: the record is damaged or of another version of this format.
    """
    path = Path(folder, RECORD)
    if not path.exists():
        return None
    row = read_json(path)
    if not isinstance(row, dict) or row.pop("schema", None) != SCHEMA:
        raise InputError(
            f"{path} is of another version than schema {SCHEMA}: use another folder "
            "or delete it"
        )
    try:
        for subset in ("valid", "test"):
            row[subset] = [Validation(**validation) for validation in row[subset]]
        return Record(**row)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it") from error


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
