"""How much faster is a sweep of short runs than a shell loop over ``fairseq-train``?

Ours is ``fairseq-scl run`` as a user would start it, including start-up. For each run,
the loop calls ``fairseq-train`` with stock flags, which saves its best checkpoint, and
``fairseq-validate`` to evaluate that on the test set. Data, updates and validations are
the same.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.material import fetch_encoder, prepare_few_shot
from benchmarks.pairs import Pairs, Row, Settings
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run, command
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.tables import load_table

QUESTION = "few-shot runs, N = 20, 60 updates"
AT_LEAST = 5.0
# Runs per round of ours and of the loop, which takes about a minute per run.
OURS, LOOPED = 6, 2
MOST_ROUNDS = 1
SETTINGS = ("learning_rate=1e-4", "updates=60", "validations=5")
POINT = "task=SST-2,n=20,lambda=0.9,tau=0.3"


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark; needs ``--glue``.

    Raises:
        InputError: ``--glue`` is missing.
    """
    if settings.glue is None:
        raise InputError("--glue is required: pass the folder with SST-2")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _, encoder = fetch_encoder(folder)
        prepare_few_shot(settings.glue, "SST-2", 20, encoder, folder / "data")
        ours, loop, printed = [], [], []
        for number in range(min(settings.rounds, MOST_ROUNDS)):
            ours.append(_sweep(folder, encoder, number, settings.threads))
            loop.append(_loop(folder, encoder, number, stock=True))
            printed.append(_loop(folder, encoder, number, stock=False))
        for name, peer, least in (
            ("loop over stock fairseq-train", loop, AT_LEAST),
            ("loop over the printed commands", printed, None),
        ):
            pairs = Pairs(tuple(ours), tuple(peer), "s per run")
            yield pairs.gain(QUESTION, name, at_least=least)


def _sweep(folder: Path, encoder: Path, number: int, jobs: int) -> float:
    """Return the seconds per run of a sweep over some samples with both losses."""
    samples = OURS // 2
    first = (number * samples) % 10
    argv = [sys.executable, "-m", "fairseq_scl.cli", "run", "table4", "--device", "cpu"]
    argv += ["--data", str(folder / "data"), "--model", str(encoder)]
    argv += ["--results", str(folder / f"sweep{number}"), "--jobs", str(jobs)]
    for setting in SETTINGS:
        argv += ["--set", setting]
    only = f"{POINT},sample={first}-{first + samples - 1}"
    return _seconds([*argv, "--only", only]) / OURS


def _loop(folder: Path, encoder: Path, number: int, stock: bool) -> float:
    """Return the seconds per run of the shell loop over one sample with both losses."""
    table = load_table("table4", SETTINGS)
    models = dict.fromkeys(table.losses, encoder)
    runs = planned_runs(table, folder / "data", models)
    seconds = 0.0
    for run in choose(runs, f"{POINT},sample={number}"):
        place = folder / f"loop{number}{stock}-{run.name}"
        train = command(run, place)[1:]
        if stock:
            train.remove("--packed")
            train[train.index("fused_adam")] = "adam"
            train[train.index("--valid-subset") + 1] = "valid"
        seconds += _seconds([sys.executable, "-m", "fairseq_cli.train", *train])
        if stock:
            seconds += _seconds(_validate(run, train, place / BEST))
    return seconds / LOOPED


def _validate(run: Run, train: list[str], checkpoint: Path) -> list[str]:
    def flag(name: str) -> list[str]:
        return [name, train[train.index(name) + 1]]

    return [
        *[sys.executable, "-m", "fairseq_cli.validate", str(run.data)],
        *["--path", str(checkpoint), "--valid-subset", "test", "--batch-size", "64"],
        *flag("--user-dir"),
        *flag("--task"),
        *flag("--num-classes"),
        *flag("--criterion"),
        "--cpu",
    ]


def _seconds(argv: list[str]) -> float:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    environment.pop("OMP_NUM_THREADS", None)
    start = time.monotonic()
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{' '.join(argv[:4])} failed: {done.stderr[-300:]}")
    return time.monotonic() - start
