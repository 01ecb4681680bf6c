"""``fairseq-scl export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import FILE, FOLDER, add_encoder, encoder_folder
from fairseq_scl.convert.pooling import MODULES
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.own_training import notes_of
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results import best_attempt, collect, summarize
from fairseq_scl.experiments.results_folder import (
    best_checkpoint,
    read_record,
    read_table,
    run_folder,
)
from fairseq_scl.experiments.statistics import result_at_best
from fairseq_scl.inference.huggingface import export_checkpoint, export_huggingface
from fairseq_scl.inference.model_folder import export_classifier, export_encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint",
        **FILE,
        help="checkpoint of fairseq-train (checkpoint_best.pt); needs --data",
    )
    source.add_argument(
        "--results",
        **FOLDER,
        help="results folder of 'fairseq-scl run --keep-checkpoints'; exports its best "
        "model",
    )
    source.add_argument(
        "--model",
        **FOLDER,
        help="with --format huggingface: model folder",
    )
    parser.add_argument(
        "--format",
        choices=("fairseq", "huggingface"),
        default="fairseq",
        help="fairseq = model folder; huggingface = folder for transformers, or for "
        "sentence-transformers if the head reads the mean over the tokens",
    )
    parser.add_argument(
        "--data",
        **FOLDER,
        help="with --checkpoint: data folder that the model was trained on",
    )
    add_encoder(
        parser,
        "with --data from fairseq-preprocess: encoder with the tokenizer used for its "
        "text",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="CHOICE",
        help="with --results: the runs of which the best is exported, such as "
        "'task=SST-2,n=20,loss=CE+SCL'",
    )
    parser.add_argument(
        "--encoder-only",
        action="store_true",
        help="write an encoder folder for further training with a new head",
    )
    parser.add_argument(
        "--to",
        required=True,
        **FOLDER,
        help="folder to write: a model folder for 'fairseq-scl predict', or what "
        "--format or --encoder-only says",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the model folder."""
    checkpoint, data, target = arguments.checkpoint, arguments.data, arguments.to
    huggingface = arguments.format == "huggingface"
    if huggingface and arguments.encoder_only:
        raise InputError(
            "--encoder-only cannot be combined with --format huggingface, which writes "
            "a classifier"
        )
    if arguments.model is not None:
        _export_model_folder(arguments)
        print(f"wrote {target}{_library(target)}")
        return 0
    if arguments.results is not None:
        if data is not None:
            raise InputError(
                "--data needs --checkpoint; --results includes its data folder"
            )
        checkpoint, data = _best(arguments.results, arguments.only)
        print(f"the best run is {checkpoint.parent.name}")
    elif data is None:
        raise InputError(
            "--checkpoint needs --data, the data folder that it was trained on"
        )
    elif arguments.only:
        raise InputError(f"--only {arguments.only!r} needs --results")
    noted = notes_of_run(checkpoint) if arguments.results is not None else {}
    encoder = arguments.encoder and encoder_folder(arguments.encoder, arguments.cache)
    remarks: Sequence[str] = ()
    if arguments.encoder_only:
        export_encoder(checkpoint, data, target, encoder)
    elif huggingface:
        remarks = export_checkpoint(checkpoint, data, target, encoder, noted)
    else:
        remarks = export_classifier(checkpoint, data, target, encoder, noted)
    for remark in remarks:
        note(remark, "warning")
    print(f"wrote {target}{_library(target) if huggingface else ''}")
    return 0


def _export_model_folder(arguments: argparse.Namespace) -> None:
    if arguments.format != "huggingface":
        raise InputError("--model needs --format huggingface: it is a model folder")
    for flag in ("data", "encoder", "only"):
        if getattr(arguments, flag):
            raise InputError(
                f"--{flag} cannot be combined with --model, which has all it needs"
            )
    export_huggingface(arguments.model, arguments.to)


def _library(folder: Path) -> str:
    """Say which library loads a folder that was written for Hugging Face."""
    if (folder / MODULES).exists():
        return (
            " for sentence-transformers, as the head reads the mean over the tokens, "
            "which a pipeline of transformers ignores; its README.md shows how to load "
            "it"
        )
    return " for transformers; its README.md shows how to load it"


def notes_of_run(checkpoint: Path) -> dict[str, Any]:
    """Return settings and results from a run's record, for the model folder."""
    record = read_record(checkpoint.parent)
    if record is None:
        return {}
    test = result_at_best(record)
    return notes_of(record) | {"test": {"correct": test.correct, "total": test.total}}


def _best(results: Path, only: str) -> tuple[Path, Path]:
    """Return the checkpoint and the data folder of the best run."""
    table, data, models = read_table(results)
    chosen = choose(planned_runs(table, data, models), only)
    cells = summarize(table, collect(results, chosen)).cells
    best = best_attempt([loss for cell in cells for loss in cell.losses.values()])
    if best is None:
        raise InputError(
            f"--only {only!r} leaves more than one candidate for the best model in "
            f"{results}, or none: give task, n and loss of finished runs, and lambda "
            "and tau if part of the grid is missing"
        )
    return best_checkpoint(run_folder(results, best.run.name)), best.run.data
