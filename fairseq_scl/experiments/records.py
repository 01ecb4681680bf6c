"""What is recorded of a finished run, and where it came from."""

import datetime
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

import fairseq_scl
from fairseq_scl.compat.versions import installed_version
from fairseq_scl.typed import Count, Finite, Positive

# What λ of Eq. 1 and τ of Eq. 3 may be.
Lambda = Annotated[float, Meta(ge=0, le=1)]
Tau = Annotated[float, Meta(gt=0, le=1e6)]


class Validation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one validation measured on one subset; losses are averages in nats.

    ``scl_loss`` is ``None`` where the criterion has no contrastive term.
    """

    update: Count
    correct: Count
    total: Positive
    ce_loss: Finite
    scl_loss: Finite | None = None

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


class Settings(msgspec.Struct):
    """The settings that reports read; a record has more."""

    seed: Count
    updates: Positive
    learning_rate: Annotated[float, Meta(gt=0)]
    scl_lambda: Lambda | None = None
    scl_temperature: Tau | None = None
    cell: dict[str, Any] = {}


class Origin(msgspec.Struct):
    """The origin that reports read; a record has more."""

    versions: dict[str, str]
    sha256: dict[str, str]
    commit: str | None = None
    changed_files: Count | None = None
    classes: dict[str, dict[str, Count]] | None = None


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
