"""``fairseq-scl train``: from a table of labeled texts to a model folder."""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.special import softmax
from tqdm import tqdm

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import (
    FILE,
    FOLDER,
    SEVERAL,
    add_device,
    add_drop_empty,
    add_encoder,
    add_precision,
    at_least,
    check_learning_rate,
    encoder_folder,
)
from fairseq_scl.convert.pooling import POOLINGS
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.files import hold
from fairseq_scl.data.folders import (
    DATA,
    MODEL,
    check_replaceable,
    folders_then_rename,
)
from fairseq_scl.data.own_file import guess_columns, read_distinct, split_off_validation
from fairseq_scl.data.suspects import Checks
from fairseq_scl.data.texts import Example
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import encoder_pooling
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.folders import check_folders
from fairseq_scl.experiments.own_training import (
    FEW_SHOT,
    OBJECTIVES,
    VALIDATIONS,
    check_only_run,
    check_own_model,
    few_shot_run,
    notes_of,
    own_run,
    recommended_learning_rate,
    recommended_updates,
)
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.results_folder import (
    BEST,
    ERROR,
    METRICS,
    forget_failures,
    last_line,
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
from fairseq_scl.inference.regression_head import regression_head
from fairseq_scl.report.evaluation import evaluation_sheets
from fairseq_scl.report.markdown import sheet_as_markdown

LOCK = ".lock"


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
        help="ce = cross-entropy; scl = with the supervised contrastive term, the "
        "default; for capcort and acl, see docs/objectives.md",
    )
    parser.add_argument(
        "--recipe",
        choices=(FEW_SHOT,),
        help="few-shot = the contrastive term alone, then a logistic regression as the "
        "head (default: encoder and head together)",
    )
    add_training(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of validation split and training"
    )


def add_table(parser: argparse.ArgumentParser) -> None:
    """Add the options of the table of labeled texts."""
    parser.add_argument(
        "file",
        **FILE,
        help=".csv, .tsv or .jsonl with a label and one or two texts per row",
    )
    parser.add_argument(
        "--columns",
        **SEVERAL,
        metavar="NAME",
        help="one or two text columns, followed by the label column (default: found by "
        "their usual names, such as text and label)",
    )
    add_drop_empty(parser)
    parser.add_argument(
        "--labels-are-classes",
        action="store_true",
        help="accept labels that look like ratings, several labels in one, or "
        "different spellings of the same label",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of training."""
    add_encoder(parser, "encoder to start from", default="minilm")
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="what the head reads: the state at <s>, or the mean over the tokens "
        "(default: as the encoder folder says)",
    )
    parser.add_argument(
        "--class-weights",
        choices=("balanced",),
        help="give all classes the same weight in cross-entropy, however many examples "
        "they have (default: all examples have the same weight)",
    )
    for name, kind, what in (
        ("updates", int, "parameter updates (default: 12·√N for N texts, at least 60)"),
        ("batch-size", int, "texts in a batch"),
        ("learning-rate", float, "peak learning rate (default: by the encoder's size)"),
        ("max-positions", int, "longest input in tokens; longer ones are cut"),
    ):
        default = {"batch-size": 16, "max-positions": 256}.get(name)
        parser.add_argument(f"--{name}", type=kind, default=default, help=what)
    add_device(parser, "train")
    add_precision(parser, "train")


def run(arguments: argparse.Namespace) -> int:
    """Read the table, train, write the model folder and print its scores."""
    check_training(arguments)
    at_least(0, arguments, "seed")
    recipe, objective = arguments.recipe, arguments.objective or "scl"
    if recipe and arguments.objective:
        raise InputError(
            f"--recipe {recipe} cannot be combined with --objective: it trains with "
            "the contrastive term alone"
        )
    compute_with_one_thread()
    examples = read_table(arguments)
    train, valid = split_off_validation(examples, arguments.seed, _checks(arguments))
    check_replaceable(arguments.to, MODEL)
    folder = arguments.to.absolute()
    work = folder.with_name(f"{folder.name}-training")
    check_own_model(arguments.to, work)
    with hold(work / LOCK, work):
        encoder = encoder_folder(arguments.encoder, arguments.cache).absolute()
        settings = settings_of(arguments, encoder, len(train), recipe)
        settings["seed"] = arguments.seed
        one = own_run(work / "data", encoder, objective, **settings)
        one = few_shot_run(one) if recipe else one
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
        record = finished or _trained(one, work)
        if record is None:
            return 1
        noted = notes_of(record)
        # A finished model folder may have a temperature since.
        if finished is None or not is_exported(folder, noted):
            _export(one, place, folder, noted)
    _print_scores(arguments, valid)
    return 0


def check_training(arguments: argparse.Namespace) -> None:
    """Check the options of training.

    Raises:
        InputError: names the option, its value and what is allowed.
    """
    at_least(1, arguments, "updates")
    at_least(2, arguments, "batch_size")
    at_least(3, arguments, "max_positions")  # <s>, </s> and a token of the text
    check_learning_rate(arguments)
    check_device(arguments.device, arguments.precision)


def read_table(arguments: argparse.Namespace) -> list[Example]:
    """Read the distinct examples of the table, and say which columns they are from."""
    columns: Sequence[str] = arguments.columns or guess_columns(arguments.file)
    checks = _checks(arguments)
    examples = read_distinct(arguments.file, columns, arguments.drop_empty, checks)
    classes = Counter(example.label for example in examples)
    print(
        f"{arguments.file}: {len(examples)} different texts from "
        f"{' and '.join(map(repr, columns[:-1]))}, {len(classes)} classes from "
        f"{columns[-1]!r}",
        flush=True,
    )
    return examples


def settings_of(
    arguments: argparse.Namespace,
    encoder: Path,
    examples: int,
    recipe: str | None = None,
) -> dict[str, Any]:
    """Return the settings of a run on ``examples`` training examples.

    Those that are not given are recommended for this number and the encoder.
    """
    updates = arguments.updates or recommended_updates(examples)
    rate = arguments.learning_rate or recommended_learning_rate(encoder, recipe)
    return {
        "pooling": arguments.pooling or encoder_pooling(encoder),
        "class_weights": arguments.class_weights,
        "updates": updates,
        "validations": min(VALIDATIONS, updates),
        "batch_size": arguments.batch_size,
        "learning_rate": rate,
        "max_positions": arguments.max_positions,
        "device": arguments.device,
        "precision": arguments.precision,
    }


def _checks(arguments: argparse.Namespace) -> Checks:
    return Checks(any_labels=arguments.labels_are_classes, note=note)


def _trained(one: Run, work: Path) -> Record | None:
    """Train; return ``None`` and say why if training failed."""
    place = run_folder(work, one.name)
    check_folders([one])
    forget_failures(work, [one.name])
    tqdm.monitor_interval = 0  # its thread would not survive a fork
    with tqdm(total=one.validations, unit="validation", file=sys.stderr) as bar:

        def show(_: Tally) -> None:
            metrics = place / METRICS
            found = read_metrics(metrics).get("valid") if metrics.exists() else None
            if found and len(found) > bar.n:
                if one.validations > 1:
                    best = f"{best_validation(found).accuracy:.1f}%"
                    bar.set_postfix({"best accuracy": best}, refresh=False)
                bar.update(min(len(found), one.validations) - bar.n)

        sweep([one], work, 1, show)
    record = read_record(place)
    if record is None:
        reason = last_line(place / ERROR)
        note(f"training failed, see {place / ERROR}: {reason}", "error")
    return record


def _export(one: Run, place: Path, folder: Path, noted: Mapping[str, Any]) -> None:
    """Export the checkpoint of a run, for the recipe with a fitted head."""
    best, head = place / BEST, None
    if not best.is_file():
        raise InputError(f"{best} is missing: delete {place} to train again")
    if noted.get("recipe"):
        class_weights = one.loss.get("class_weights")
        head, (right, total) = regression_head(
            best, one.data, class_weights, one.device
        )
        noted = {**noted, "valid": {"correct": right, "total": total}}
    for remark in export_classifier(best, one.data, folder, noted=noted, head=head):
        note(remark, "warning")


def _print_scores(arguments: argparse.Namespace, valid: Sequence[Example]) -> None:
    """Evaluate the model folder on the validation examples."""
    model = load_classifier(arguments.to, arguments.device, arguments.precision)
    logits, truth = example_logits(model, valid, arguments.file)
    scores = evaluate(softmax(logits, axis=1), truth, model.labels, valid)
    for sheet in evaluation_sheets(scores)[:2]:
        print(f"\n{sheet_as_markdown(sheet)}")
    chosen = (
        "by which nothing was chosen"
        if arguments.recipe
        else "by which the best of the models during training was chosen, so the "
        "scores are slightly too high"
    )
    print(
        f"\nThese are the validation texts, {chosen}; 'fairseq-scl evaluate' measures "
        "other texts."
    )
    print(f"the model is in {arguments.to}; try it:")
    model_folder = shlex.quote(str(arguments.to))
    pair = "printf 'some text\\tanother text\\n'"
    echo = pair if model.pair else "echo 'some text'"
    print(f"{echo} | fairseq-scl predict --model {model_folder}")
