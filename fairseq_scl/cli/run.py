"""``fairseq-scl run``."""

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairseq_scl.cli.endings import fail, note
from fairseq_scl.cli.machine import Machine, add_machine, describe, find_machine
from fairseq_scl.cli.options import FOLDER, add_cache, encoder_folder, key_values
from fairseq_scl.cli.report import FILES, write_report
from fairseq_scl.data.folders import check_files
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run, command
from fairseq_scl.experiments.folders import check_folders
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results_folder import (
    ERROR,
    RECORD,
    check_table,
    forget_failures,
    is_failed,
    read_error,
    read_record,
    run_folder,
    write_table,
)
from fairseq_scl.experiments.runner import done_record
from fairseq_scl.experiments.slurm import SlurmError, job_name, sweep_on_slurm
from fairseq_scl.experiments.statistics import result_at_best
from fairseq_scl.experiments.sweep import Tally, compute_with_one_thread, sweep
from fairseq_scl.experiments.tables import Table, load_table, smoke, table_names

# If the output is not a terminal.
SECONDS_BETWEEN_LINES = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "table",
        metavar="TABLE",
        help=f"{', '.join(table_names())}, or a YAML file",
    )
    parser.add_argument(
        "--data",
        required=True,
        **FOLDER,
        help="folder with one subfolder per task, as scripts/prepare_glue.sh writes",
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="FOLDER",
        help="encoder to start from, a folder or a name, see docs/encoders.md; "
        "LOSS=FOLDER sets it for one loss and can be repeated",
    )
    parser.add_argument(
        "--results",
        "--to",
        **FOLDER,
        help="results folder (default: outputs/TABLE, with --smoke outputs/TABLE-smoke)"
        "; run the command again to resume",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CHOICE",
        help="train only matching runs: 'task=SST-2,n=20|100,lambda=0.9,tau=0.3,"
        "sample=0-2'; if repeated, all must match",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the table's training: learning_rate=1e-4, updates=60",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="test the whole pipeline quickly: 2 updates, 3 repetitions, one point of "
        "the grid",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the fairseq-train commands"
    )
    parser.add_argument("--retry-failed", action="store_true", help="retry failed runs")
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep the best checkpoint of each run (1.4 GB each for RoBERTa-Large)",
    )
    add_cache(parser)
    add_machine(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do the unfinished runs of a table; return 1 if any run failed."""
    compute_with_one_thread()
    if {"updates", "epochs"} <= key_values("--set", arguments.set).keys():
        raise InputError("--set updates cannot be combined with --set epochs")
    table = load_table(arguments.table, arguments.set)
    if arguments.smoke:
        table = smoke(table)
    models = _models(arguments.model, table, arguments.cache)
    machine = find_machine(arguments)
    shared = {
        "device": machine.device,
        "precision": arguments.precision,
        "keep_checkpoint": arguments.keep_checkpoints,
    }
    every = planned_runs(table, arguments.data.absolute(), models, shared)
    chosen = choose(every, ",".join(arguments.only))
    name = f"{table.name}-smoke" if arguments.smoke else table.name
    folder = (arguments.results or Path("outputs", name)).absolute()
    for said in check_folders(chosen):
        note(said)
    if arguments.dry_run:
        for one in chosen:
            print(shlex.join(command(one, run_folder(folder, one.name))))
        if any(one.regression_head for one in chosen):
            note("only 'fairseq-scl run' fits regression_head: these commands do not")
        print(describe(machine), file=sys.stderr)
        return 0
    where = (folder, table, arguments.data, models)
    return train_table(*where, chosen, machine, arguments.retry_failed)


def train_table(
    folder: Path,
    table: Table,
    data: Path,
    models: Mapping[str, Path],
    runs: Sequence[Run],
    machine: Machine,
    retry_failed: bool,
) -> int:
    """Do the unfinished ones of some runs of a table, and write its report.

    ``folder`` is the results folder, ``data`` has one subfolder per task, and
    ``models`` has the encoder of each loss.

    Returns:
        the exit status: 0 if all runs are done, 1 if any failed.

    Raises:
        InputError: the folder holds other results or files.
    """
    check_files(folder / name for name in FILES)
    check_table(folder, table)
    for one in runs:
        done_record(one, run_folder(folder, one.name))
    write_table(folder, table, data, models)
    if retry_failed:
        forget_failures(folder, [one.name for one in runs])
    try:
        tally = _follow(runs, folder, machine)
    except SlurmError as error:
        return fail(str(error), 1)
    except KeyboardInterrupt:
        if machine.slurm is not None:
            print(f"the jobs continue; cancel them: scancel --name {job_name(folder)}")
        raise
    status = _end(tally, runs, folder)
    if status:
        again = "run this again" if retry_failed else "rerun with --retry-failed"
        print(f"fix the cause and {again}")
    return status


def _models(given: Sequence[str], table: Table, cache: Path) -> dict[str, Path]:
    every: dict[str, Path] = {}
    own: dict[str, Path] = {}

    def find(name: str) -> Path:
        return encoder_folder(name, cache, "--model", or_model=True).absolute()

    for value in given:
        loss, sign, folder = value.partition("=")
        if sign and loss in table.losses:
            if loss in own:
                raise InputError(f"--model {value!r}: {loss} is given twice")
            own[loss] = find(folder)
        elif not sign or Path(value).is_dir():
            if every:
                raise InputError(
                    f"--model {value!r}: one for all losses is given twice; "
                    "LOSS=FOLDER sets it for one loss"
                )
            every = dict.fromkeys(table.losses, find(value))
        else:
            raise InputError(
                f"--model {value!r}: there is no such folder, and {loss!r} is not one "
                f"of the losses of {table.name}: {', '.join(table.losses)}"
            )
    models = every | own
    missing = [loss for loss in table.losses if loss not in models]
    if missing:
        raise InputError(f"--model is missing for {missing[0]}: --model {missing[0]}=…")
    return models


def _follow(runs: Sequence[Run], folder: Path, machine: Machine) -> Tally:
    """Do the runs and show a progress bar."""
    tqdm.monitor_interval = 0  # tqdm's monitor thread would not survive a fork
    start: list[Any] = []
    latest: dict[str, str] = {}
    seconds = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    settings = {"unit": "run", "smoothing": 0, "mininterval": seconds}
    # miniters=0, because tqdm would adapt it to the runs finished before the start.
    with tqdm(total=len(runs), file=sys.stderr, miniters=0, **settings) as bar:

        def show(tally: Tally) -> None:
            ended = tally.done + tally.failed
            if not start:  # leave earlier runs out of the estimate of the time left
                start.append(ended)
                bar.initial = bar.n = ended
                bar.start_t = bar.last_print_t = time.time()
            if ended > bar.n:
                latest.update(_latest_accuracy(runs, folder))
            told = {"running": tally.running, "failed": tally.failed, **latest}
            bar.set_postfix(told, refresh=False)
            bar.update(ended - bar.n)

        if machine.slurm is not None:
            return sweep_on_slurm(runs, folder, machine.slurm, show)
        return sweep(runs, folder, machine.jobs, show)


def _latest_accuracy(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """Return the test accuracy of the latest finished run for the progress bar."""
    paths = [run_folder(folder, run.name) / RECORD for run in runs]
    done = [path for path in paths if path.exists()]
    if not done:
        return {}
    latest = max(done, key=lambda path: path.stat().st_mtime).parent
    record = read_record(latest)
    if record is None:
        return {}
    return {"latest": f"{result_at_best(record).accuracy:.1f}% of {latest.name}"}


def _end(tally: Tally, runs: Sequence[Run], folder: Path) -> int:
    """Write the report and print the failed runs; return the exit status."""
    try:
        if tally.done:
            write_report(folder, folder, as_html=True, only=runs)
    finally:  # also if the report is refused
        print(f"{tally.done} of {tally.total} runs are done, in {folder}")
        failed = [run for run in runs if is_failed(folder, run.name)]
        for one in failed[:10]:
            place = run_folder(folder, one.name)
            print(f"failed: {one.name}, see {place / ERROR}: {read_error(place)}")
        if len(failed) > 10:
            print(f"and {len(failed) - 10} more")
    return 1 if failed else 0
