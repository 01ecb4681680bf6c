"""``fairseq-scl run``."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fairseq_scl.data.binarise import MANIFEST
from fairseq_scl.data.files import sha256
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.runner import (
    ERROR,
    Run,
    architecture_flags,
    command,
    done_record,
    last_line,
)
from fairseq_scl.experiments.sweep import (
    Tally,
    available_cores,
    forget_failures,
    is_failed,
    run_folder,
    sweep,
    write_table,
)
from fairseq_scl.experiments.tables import Table, load_table, smoke


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "table", metavar="TABLE", help="table2, table3, table4, table7, or a YAML file"
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="holds a folder for each task, as scripts/prepare_glue.sh makes",
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="FOLDER",
        help="encoder folder that training starts from; LOSS=FOLDER for one loss, "
        "given once for each",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="where records go (default: outputs/TABLE); started again, it goes on",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="CHOICE",
        help="the runs to do: 'task=SST-2,n=20|100,lambda=0.9,tau=0.3,sample=0-2'",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the table's training: learning_rate=1e-4, updates=60",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the whole path with the least work: 2 updates, 3 repetitions, no grid",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the fairseq-train commands"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try failed runs again"
    )
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep the best checkpoint of each run (1.4 GB each for RoBERTa-Large)",
    )
    _add_machine(parser.add_argument_group("where to train"))


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time (default: one for each processor, one on a GPU)",
    )
    group.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to train",
    )
    group.add_argument(
        "--fp16", action="store_true", help="half precision, with loss scaling"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what is missing of a table; 0 if every run is done, 1 if some failed."""
    table = load_table(arguments.table, arguments.set)
    if arguments.smoke:
        table = smoke(table)
    models = _models(arguments.model, table)
    shared = {
        "device": arguments.device,
        "fp16": arguments.fp16,
        "keep_checkpoint": arguments.keep_checkpoints,
    }
    every = planned_runs(table, arguments.data.absolute(), models, shared)
    chosen = choose(every, arguments.only)
    name = f"{table.name}-smoke" if arguments.smoke else table.name
    folder = (arguments.results or Path("outputs", name)).absolute()
    _check(chosen)
    if arguments.dry_run:
        for one in chosen:
            print(shlex.join(command(one, run_folder(folder, one))))
        return 0
    jobs = _jobs(arguments)
    write_table(folder, table, arguments.data, models)
    for one in chosen:
        done_record(one, run_folder(folder, one))
    if arguments.retry_failed:
        forget_failures(chosen, folder)
    tally = _follow(chosen, folder, jobs)
    return _end(tally, chosen, folder, arguments)


def _models(given: Sequence[str], table: Table) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for value in given:
        loss, sign, folder = value.partition("=")
        if not sign:
            models |= dict.fromkeys(table.losses, Path(value).absolute())
        elif loss in table.losses:
            models[loss] = Path(folder).absolute()
        else:
            raise InputError(
                f"--model {value!r}: {loss!r} is no loss of {table.name}, which has "
                f"{', '.join(table.losses)}"
            )
    missing = [loss for loss in table.losses if loss not in models]
    if missing:
        raise InputError(f"--model is missing for {missing[0]}: --model {missing[0]}=…")
    return models


def _check(runs: Sequence[Run]) -> None:
    """Refuse what would only fail later, in each of many runs.

    Raises:
        InputError: data that is not there or has another dictionary than the encoder.
    """
    for folder, encoder in sorted({(run.data, run.encoder) for run in runs}):
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"there is no data folder {folder}: 'fairseq-scl prepare' makes it "
                "(see scripts/prepare_glue.sh), or leave its runs out with --only"
            )
        for split in ("train", "valid", "test"):
            if not (folder / "label" / f"{split}.idx").is_file():
                raise InputError(f"{folder} has no {split} split")
        architecture_flags(encoder, 512)
        ours, theirs = folder / "input0" / "dict.txt", encoder / "dict.txt"
        if theirs.is_file() and sha256(ours) != sha256(theirs):
            raise InputError(
                f"{folder} was prepared with another vocabulary than {encoder} has: "
                "prepare it anew with --encoder"
            )


def _jobs(arguments: argparse.Namespace) -> int:
    if arguments.jobs is None:
        return available_cores() if arguments.device == "cpu" else 1
    if arguments.jobs < 1:
        raise InputError(f"--jobs is {arguments.jobs}: it must be at least 1")
    return int(arguments.jobs)


def _follow(runs: Sequence[Run], folder: Path, jobs: int) -> Tally:
    """Do the runs under a progress bar."""
    tqdm.monitor_interval = 0  # its thread would not survive a fork
    start: list[Any] = []
    # A line now and then where nobody looks at a terminal.
    seconds = 0.5 if sys.stderr.isatty() else 30
    with tqdm(
        total=len(runs), unit="run", file=sys.stderr, smoothing=0, mininterval=seconds
    ) as bar:

        def show(tally: Tally) -> None:
            ended = tally.done + tally.failed
            if not start:  # what was there before says nothing about the time left
                start.append(ended)
                bar.initial = bar.n = ended
                bar.start_t = bar.last_print_t = time.time()
            bar.set_postfix(running=tally.running, failed=tally.failed, refresh=False)
            bar.update(ended - bar.n)

        return sweep(runs, folder, jobs, show)


def _end(
    tally: Tally, runs: Sequence[Run], folder: Path, arguments: argparse.Namespace
) -> int:
    print(f"{tally.done} of {tally.total} runs are done, in {folder}")
    failed = [run for run in runs if is_failed(folder, run)]
    for one in failed[:10]:
        error = run_folder(folder, one) / ERROR
        print(f"failed: {one.name}, see {error}: {last_line(error)}")
    if len(failed) > 10:
        print(f"and {len(failed) - 10} more")
    if failed:
        print("mend the cause and try them again with --retry-failed")
        return 1
    print(f"see them with: fairseq-scl report {shlex.quote(str(folder))}")
    return 0
