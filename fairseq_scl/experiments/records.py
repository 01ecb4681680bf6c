"""The record of a finished run and its origin."""

import datetime
import functools
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

import fairseq_scl
from fairseq_scl.compat.versions import installed_version
from fairseq_scl.typed import Count, Finite, Lambda, Positive, Tau


class Validation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Result of one validation on one subset; losses are averages in nats.

    ``scl_loss`` is ``None`` if the criterion lacks a contrastive term.
    """

    update: Count
    correct: Count
    total: Positive
    ce_loss: Finite
    scl_loss: Finite | None = None

    def __post_init__(self) -> None:
        """Check that the counts are possible."""
        if self.correct > self.total:
            raise ValueError(f"correct is {self.correct}, more than total {self.total}")

    @property
    def accuracy(self) -> float:
        """Accuracy in percent, from the exact counts."""
        return 100 * self.correct / self.total


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished run: its settings, its results and its origin.

    Attributes:
        settings: everything that affects the result (loss, λ, τ, seed, sample, …).
        valid: results on the validation set, in order of updates.
        test: results on the test set, in order of updates.
        seconds: wall time of training.
        argv: the training command.
        origin: versions, commit, machine, GPU (``None`` on the CPU) and its driver,
            time and checksums.
        representations: measures of the best model's test features by name, see
            :mod:`~fairseq_scl.experiments.geometry`; ``None`` if not measured.
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
    """The settings that reports read; records have more."""

    seed: Count
    updates: Positive
    learning_rate: Annotated[float, Meta(gt=0)]
    scl_lambda: Lambda | None = None
    scl_temperature: Tau | None = None
    cell: dict[str, Any] = {}


class Origin(msgspec.Struct):
    """The fields of an origin that reports read; records have more."""

    versions: dict[str, str]
    sha256: dict[str, str]
    commit: str | None = None
    changed_files: Count | None = None
    classes: dict[str, dict[str, Count]] | None = None


def origin(checksums: Mapping[str, str]) -> dict[str, Any]:
    """Return the origin of a result: versions, commit, machine, time and checksums."""
    names = ("torch", "numpy", "fairseq", "fairseq-fixed")
    versions = {name: v for name in names if (v := installed_version(name))}
    # The version of the running code, which may differ from the installed package.
    versions["fairseq-scl"] = fairseq_scl.__version__
    commit, changed_files = state_of_code()
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": commit,
        "changed_files": changed_files,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(),
        "sha256": dict(checksums),
    }


@functools.cache
def state_of_code() -> tuple[str | None, int | None]:
    """Return the commit of this code and the number of changed files.

    They are looked up once, because a process keeps the code that it has imported: call
    this early, and before a fork.

    Returns:
        ``(None, None)`` outside of a checkout.
    """
    # An installed package may lie inside another project's repository.
    if _git(["ls-files", "--error-unmatch", Path(__file__).name]) is None:
        return None, None
    changed = _git(["status", "--porcelain"])
    count = None if changed is None else len(changed.splitlines())
    return _git(["rev-parse", "HEAD"]), count


def _git(arguments: Sequence[str]) -> str | None:
    """Run git in the checkout of this code; return ``None`` outside of a checkout."""
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
