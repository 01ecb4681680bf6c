"""``fairseq-scl compare``: which objective suits a table of labeled texts."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fairseq_scl.cli.machine import Machine
from fairseq_scl.cli.options import (
    FOLDER,
    MOST,
    MOST_TIMES,
    SEVERAL,
    encoder_folder,
    number,
)
from fairseq_scl.cli.own_options import (
    add_table,
    add_training,
    check_training,
    note_cut,
    read_table,
    settings_of,
)
from fairseq_scl.cli.run import train_table
from fairseq_scl.data.folders import hold
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import default_jobs
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.folders import check_folders
from fairseq_scl.experiments.own_comparison import (
    divide,
    frozen_outcomes,
    own_table,
    write_samples,
)
from fairseq_scl.experiments.own_training import (
    FEW_SHOT_RECIPE,
    OBJECTIVES,
    recommended_learning_rate,
)
from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.results import collect, count_degenerate
from fairseq_scl.experiments.results_folder import check_table, run_folder
from fairseq_scl.experiments.runner import done_record
from fairseq_scl.experiments.selection import outcome
from fairseq_scl.experiments.sweep import compute_with_one_thread
from fairseq_scl.report.markdown import sheet_as_markdown
from fairseq_scl.report.own_comparison import conclusion, own_sheets

FROZEN = "logistic regression"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_table(parser)
    parser.add_argument(
        "--to",
        required=True,
        **FOLDER,
        help="results folder to write; run the command again to resume",
    )
    parser.add_argument(
        "--objectives",
        **SEVERAL,
        choices=(*OBJECTIVES, FEW_SHOT_RECIPE),
        default=["ce", "scl"],
        help="objectives of 'fairseq-scl train' to compare, and its recipe few-shot; "
        "the first one is the baseline",
    )
    for flag, least, default, help in (
        ("--samples", 2, 5, "training samples, each trained with every objective"),
        ("--size", 1, None, "texts per sample (default: 80%% of those not held out)"),
        ("--seed", 0, 0, "seed of the split; sample k has the seed k"),
    ):
        limits = number(least, MOST_TIMES if flag == "--samples" else MOST)
        parser.add_argument(flag, **limits, default=default, help=help)
    add_training(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train all samples, print the tables and one sentence."""
    check_training(arguments)
    compute_with_one_thread()
    examples = read_table(arguments)
    try:
        parts = divide(examples, arguments.size, arguments.seed)
    except InputError as error:
        raise InputError(f"{arguments.file}: {error}") from error
    print(
        f"{len(parts.test)} texts for test, {len(parts.valid)} for validation; "
        f"{arguments.samples} samples of {parts.size} of the other {len(parts.pool)}",
        flush=True,
    )
    folder = arguments.to.absolute()
    encoder = encoder_folder(arguments.encoder, arguments.cache).absolute()
    settings = settings_of(arguments, encoder, parts.size)
    with hold(folder):
        shared = {name: settings.pop(name) for name in ("device", "precision")}
        settings["head_pooling"] = settings.pop("pooling")
        data = folder / "data"
        name, samples = arguments.file.name, arguments.samples
        rate = recommended_learning_rate(encoder, FEW_SHOT_RECIPE)
        settings["few_shot_rate"] = arguments.learning_rate or rate
        settings["classes"] = len({example.label for example in examples})
        table = own_table(name, arguments.objectives, parts.size, samples, **settings)
        models = dict.fromkeys(table.losses, encoder)
        runs = planned_runs(table, data, models, shared)
        folders = {run.seed: run.data for run in runs}
        check_table(folder, table)

        def check(new: Mapping[int, Path]) -> None:
            for one in runs:
                place = run_folder(folder, one.name)
                done_record(replace(one, data=new[one.seed]), place)

        write_samples(folders, parts, encoder, [arguments.file], check)
        check_folders(runs)
        first = f"sample 0 of {arguments.file}"
        splits = ("train", "valid", "test")
        note_cut(first, folders[0], splits, runs[0].max_positions)
        device = arguments.device
        machine = Machine(device, default_jobs(device))
        if train_table(folder, table, data, models, runs, machine, retry_failed=True):
            return 1
        print_comparison(folder, runs)
    return 0


def print_comparison(folder: Path, runs: Sequence[Run]) -> None:
    """Print the runs of a results folder by sample, their differences, and a sentence.

    A logistic regression on the features before fine-tuning is fitted for comparison.
    The runs are finished and of one size, with all losses on the same samples.
    """
    records: dict[str, list[Record]] = {}
    for attempt in collect(folder, runs):
        if attempt.record is not None:
            records.setdefault(attempt.run.cell["loss"], []).append(attempt.record)
    outcomes = {loss: list(map(outcome, found)) for loss, found in records.items()}
    outcomes[FROZEN] = frozen_outcomes(runs)
    for sheet in own_sheets(outcomes):
        print(f"\n{sheet_as_markdown(sheet)}")
    degenerate = {loss: count_degenerate(found) or 0 for loss, found in records.items()}
    print(f"\n{conclusion(outcomes, runs[0].cell['n'], degenerate)}")
