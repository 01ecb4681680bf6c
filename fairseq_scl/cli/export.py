"""``fairseq-scl export``."""

import argparse
import sys
from pathlib import Path

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results import best_attempt, collect, summarise
from fairseq_scl.experiments.results_folder import BEST, read_table, run_folder
from fairseq_scl.inference.model_folder import export_classifier, export_encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="checkpoint of fairseq-train, as checkpoint_best.pt; needs --data",
    )
    source.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="results of 'fairseq-scl run --keep-checkpoints': the best model of them",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="with --checkpoint: data folder that it was trained on",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FOLDER",
        help="with --data from fairseq-preprocess: encoder folder whose tokenizer made "
        "its text",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="CHOICE",
        help="with --results: of which cell and loss, as 'task=SST-2,n=20,loss=CE+SCL'",
    )
    parser.add_argument(
        "--encoder-only",
        action="store_true",
        help="write an encoder folder, to train on from with a fresh head",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="model folder to write, for 'fairseq-scl predict'",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the model folder."""
    checkpoint, data = arguments.checkpoint, arguments.data
    if arguments.results is not None:
        if data is not None:
            raise InputError("--data goes with --checkpoint; --results knows its data")
        checkpoint, data = _best(arguments.results, arguments.only)
        print(f"the best run is {checkpoint.parent.name}")
    elif data is None:
        raise InputError("--checkpoint needs --data, the folder it was trained on")
    elif arguments.only:
        raise InputError(f"--only {arguments.only!r} goes with --results")
    where = (checkpoint, data, arguments.to, arguments.encoder)
    if arguments.encoder_only:
        export_encoder(*where)
    else:
        for remark in export_classifier(*where):
            print(f"fairseq-scl: warning: {remark}", file=sys.stderr)
    print(f"wrote {arguments.to}")
    return 0


def _best(results: Path, only: str) -> tuple[Path, Path]:
    """Return checkpoint and data folder of the best run."""
    table, data, models = read_table(results)
    chosen = choose(planned_runs(table, data, models), only)
    cells = summarise(table, collect(results, chosen)).cells
    best = best_attempt([loss for cell in cells for loss in cell.losses.values()])
    if best is None:
        raise InputError(
            f"--only {only!r} does not tell one best model of {results}: name task, n "
            "and loss of finished runs, and lambda and tau where some of the grid are "
            "missing"
        )
    checkpoint = run_folder(results, best.run.name) / BEST
    if not checkpoint.is_file():
        raise InputError(
            f"{checkpoint} is missing: delete {checkpoint.parent} and run it again "
            "with --keep-checkpoints"
        )
    return checkpoint, best.run.data
