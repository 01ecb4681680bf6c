"""What a job of the tests does: real runs that take seconds, each start noted."""

import os
import sys
import time
from pathlib import Path
from unittest import mock

from fairseq_scl.cli import main
from fairseq_scl.experiments import slurm, sweep
from fairseq_scl.experiments.in_process import train_here
from fairseq_scl.experiments.runner import Run
from fairseq_scl.experiments.slurm import Driver

SECONDS = float(os.environ.get("SECONDS_A_RUN", "4"))
STARTS = "starts"


class SlowDriver(Driver):
    """A driver whose runs can be met while they are at work."""

    def __call__(self) -> None:
        with mock.patch.object(sweep, "train_here", train_slowly):
            super().__call__()


def train_slowly(run: Run, argv: list[str], folder: Path) -> int:
    """Note which run begins, in which process and its parent; do it after a while."""
    # One write to a file that is appended to is whole, whoever else writes.
    with open(folder.parent.parent / STARTS, "a", encoding="utf-8") as file:
        file.write(f"{run.name} {os.getpid()} {os.getppid()}\n")
    time.sleep(SECONDS)
    return train_here(run, argv, folder)


class BrokenDriver(Driver):
    """A driver that cannot work."""

    def __call__(self) -> None:
        raise OSError("the disk is full")


def command_line(driver: str) -> int:
    """Do as ``fairseq-scl`` does, with jobs that use a driver of this file."""
    with (
        mock.patch.object(slurm, "Driver", globals()[driver]),
        mock.patch.object(slurm, "SECONDS_BETWEEN_LOOKS", 1.0),
    ):
        return main(sys.argv[1:])
