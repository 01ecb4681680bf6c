"""A slow sweep for tests: real runs that take seconds and record each start."""

import os
import sys
import time
from pathlib import Path
from unittest import mock

from fairseq_scl.cli import main
from fairseq_scl.experiments import slurm, sweep
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.in_process import train_here
from fairseq_scl.experiments.slurm import Driver

SECONDS = float(os.environ.get("SECONDS_A_RUN", "4"))
STARTS = "starts"


class SlowDriver(Driver):
    """A driver whose runs are slow enough to be interrupted."""

    def __call__(self) -> None:
        with mock.patch.object(sweep, "train_here", train_slowly):
            super().__call__()


def train_slowly(run: Run, argv: list[str], folder: Path) -> int:
    """Record a run, its process and its parent process; start it after a delay."""
    # A single append is atomic, even with other writers.
    with open(folder.parent.parent / STARTS, "a", encoding="utf-8") as file:
        file.write(f"{run.name} {os.getpid()} {os.getppid()}\n")
    time.sleep(SECONDS)
    return train_here(run, argv, folder)


class BrokenDriver(Driver):
    """A driver that always fails."""

    def __call__(self) -> None:
        raise OSError("the disk is full")


def command_line(driver: str) -> int:
    """Run ``fairseq-scl`` with jobs that use a driver from this file."""
    with (
        mock.patch.object(slurm, "Driver", globals()[driver]),
        mock.patch.object(slurm, "SECONDS_BETWEEN_LOOKS", 1.0),
    ):
        return main(sys.argv[1:])
