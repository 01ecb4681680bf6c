"""``fairseq-scl train``: from a table of labeled texts to a model folder."""

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.special import softmax
from tqdm import tqdm

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import FOLDER, encoder_folder, number
from fairseq_scl.cli.own_options import (
    add_table,
    add_training,
    check_training,
    checks_of,
    note_cut,
    read_table,
    settings_of,
)
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.folders import (
    DATA,
    MODEL,
    check_replaceable,
    folders_then_rename,
    hold,
)
from fairseq_scl.data.own_file import split_off_validation
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.folders import check_folders
from fairseq_scl.experiments.frozen import probed_before
from fairseq_scl.experiments.own_training import (
    FEW_SHOT_RECIPE,
    OBJECTIVES,
    check_only_run,
    check_own_model,
    notes_of,
    own_run,
)
from fairseq_scl.experiments.probe import Probe
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.results_folder import (
    ERROR,
    METRICS,
    best_checkpoint,
    forget_failures,
    read_error,
    read_metrics,
    read_record,
    run_folder,
)
from fairseq_scl.experiments.runner import done_record
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.experiments.sweep import Tally, compute_with_one_thread, sweep
from fairseq_scl.inference.evaluation import evaluate, example_logits
from fairseq_scl.inference.model_folder import (
    export_classifier,
    is_exported,
    load_classifier,
)
from fairseq_scl.report.evaluation import evaluation_sheets
from fairseq_scl.report.markdown import sheet_as_markdown

MOST_PROBED = 2000  # training texts; a linear probe of many takes minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_table(parser)
    parser.add_argument(
        "--to", required=True, **FOLDER,
        help="model folder to write, for 'fairseq-scl predict'; data, log and "
        "checkpoint go to FOLDER-training, from which the command resumes",
    )  # fmt: skip
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="ce = cross-entropy; scl = cross-entropy and the supervised contrastive "
        "term (the default); for capcort and acl, see docs/objectives.md",
    )
    parser.add_argument(
        "--recipe",
        choices=(FEW_SHOT_RECIPE,),
        help="few-shot = train the encoder with the contrastive term alone, then fit "
        "the head by logistic regression (default: train both together)",
    )
    add_training(parser)
    parser.add_argument(
        "--seed",
        **number(0),
        default=0,
        help="seed of the validation split and of training",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the table, train, write the model folder and print its scores."""
    check_training(arguments)
    recipe, objective = arguments.recipe, arguments.objective or "scl"
    if recipe and arguments.objective:
        raise InputError(
            f"--recipe {recipe} cannot be combined with --objective: it trains with "
            "the contrastive term alone"
        )
    compute_with_one_thread()
    examples = read_table(arguments)
    train, valid = split_off_validation(examples, arguments.seed, checks_of(arguments))
    check_replaceable(arguments.to, MODEL)
    folder = arguments.to.absolute()
    work = folder.with_name(f"{folder.name}-training")
    check_own_model(arguments.to, work)
    encoder = encoder_folder(arguments.encoder, arguments.cache).absolute()
    settings = settings_of(arguments, encoder, len(train), recipe)
    settings["seed"] = arguments.seed
    settings["classes"] = len({example.label for example in examples})
    with hold(work):
        one = own_run(work / "data", encoder, recipe or objective, **settings)
        check_only_run(one, work)
        place = run_folder(work, one.name)
        # A run needs a test set; these are the validation examples again.
        splits = {"train": train, "valid": valid, "test": valid}
        inputs = [encoder, arguments.file]
        with folders_then_rename([one.data], DATA, inputs) as (new,):
            binarize(splits, encoder, new)
            finished = done_record(replace(one, data=new), place)
        print(
            f"{len(train)} texts for training, {len(valid)} for validation; "
            f"{one.updates} updates with learning rate {one.learning_rate:g}",
            flush=True,
        )
        note_cut(arguments.file, one.data, ("train", "valid"), one.max_positions)
        record = finished or _trained(one, work)
        if record is None:
            return 1
        noted = notes_of(record)
        # A finished model folder may have a temperature since.
        if finished is None or not is_exported(folder, noted):
            _export(one, place, folder, noted)
    frozen = None
    if len(train) <= MOST_PROBED:
        with contextlib.suppress(InputError):  # if it does not converge
            frozen = probed_before(one)
    _print_scores(arguments, valid, frozen)
    return 0


def _trained(one: Run, work: Path) -> Record | None:
    """Train; return ``None`` and say why if training failed."""
    place = run_folder(work, one.name)
    check_folders([one])
    forget_failures(work, [one.name])
    tqdm.monitor_interval = 0  # its thread would not survive a fork
    validations = math.ceil(one.updates / one.validate_every)
    with tqdm(total=validations, unit="validation", file=sys.stderr) as bar:

        def show(_: Tally) -> None:
            metrics = place / METRICS
            found = read_metrics(metrics).get("valid") if metrics.exists() else None
            if found and len(found) > bar.n:
                if validations > 1:
                    best = f"{best_validation(found).accuracy:.1f}%"
                    bar.set_postfix({"best accuracy": best}, refresh=False)
                bar.update(min(len(found), validations) - bar.n)

        sweep([one], work, 1, show)
    record = read_record(place)
    if record is None:
        note(f"training failed, see {place / ERROR}: {read_error(place)}", "error")
    return record


def _export(one: Run, place: Path, folder: Path, noted: Mapping[str, Any]) -> None:
    """Export the checkpoint of a run."""
    best = best_checkpoint(place)
    for remark in export_classifier(best, one.data, folder, noted=noted):
        note(remark, "warning")


def _print_scores(
    arguments: argparse.Namespace, valid: Sequence[Example], frozen: Probe | None
) -> None:
    """Evaluate the model folder on the validation examples.

    ``frozen`` is the linear probe of the encoder before fine-tuning, if there is one.
    """
    model = load_classifier(arguments.to, arguments.device, arguments.precision)
    logits, truth = example_logits(model, valid, arguments.file)
    scores = evaluate(
        softmax(logits / model.temperature, axis=1), truth, model.labels, valid
    )
    for sheet in evaluation_sheets(scores)[:2]:
        print(f"\n{sheet_as_markdown(sheet)}")
    chosen = (
        "were not used to choose anything"
        if arguments.recipe
        else "also chose the best weights, so the scores are slightly too high"
    )
    print(
        f"\nThese scores are on the validation texts, which {chosen}; 'fairseq-scl "
        "evaluate' measures other texts."
    )
    if frozen is not None:
        said = (
            "logistic regression on the encoder's features before fine-tuning labels "
            f"{100 * frozen.valid_correct / frozen.valid_total:.1f}% of the validation "
            "texts correctly"
        )
        if frozen.valid_correct > scores.correct:
            other = "" if arguments.recipe else " --recipe few-shot or"
            advice = f"more than the model: try{other} more --updates"
            note(f"a {said}, {advice}", "warning")  # also for Classifier.fit
        else:
            print(f"A {said}.")
    print(f"the model is in {arguments.to}; try it:")
    model_folder = shlex.quote(str(arguments.to))
    pair = "printf 'some text\\tanother text\\n'"
    echo = pair if model.pair else "echo 'some text'"
    print(f"{echo} | fairseq-scl predict --model {model_folder}")
