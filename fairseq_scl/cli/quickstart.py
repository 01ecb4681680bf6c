"""``fairseq-scl quickstart``."""

import argparse
import csv
import io
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from fairseq_scl.cli.options import (
    MOST_TIMES,
    add_device,
    add_precision,
    at_least,
)
from fairseq_scl.data.files import hold, write_then_rename
from fairseq_scl.data.folders import check_files, list_files
from fairseq_scl.data.packages import default_cache
from fairseq_scl.data.texts import read_split
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.quickstart import (
    QuickStart,
    classifier_folder,
    model_folder,
    planned_runs,
    prepare_data,
    prepare_encoder,
    train_all,
)
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.runner import Run, command
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, features
from fairseq_scl.report.figures import learning_curves, tsne_comparison
from fairseq_scl.report.table import comparison_table, run_rows, signature
from fairseq_scl.tasks.batching import BATCHING

LOCK = ".lock"
SHOWN = ("table.md", "runs.csv", "curves.png", "tsne.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    settings = QuickStart(Path(), Path())
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("data-bin/quickstart"),
        metavar="FOLDER",
        help="folder for everything it makes; started again, it goes on there",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache(),
        metavar="FOLDER",
        help="folder of the downloads (86 MB); needed from the network only once",
    )
    for name, help in (
        ("samples", "few-shot samples, each trained with CE and with CE + SCL"),
        ("size", "sentences in a sample"),
        ("updates", "parameter updates of a run"),
        ("validations", "validations along a run"),
    ):
        default = getattr(settings, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=help)
    for name, help in (
        ("learning_rate", "peak learning rate"),
        ("scl_lambda", "weight of the SCL term, above 0 to 1"),
        ("scl_temperature", "temperature of the SCL term"),
    ):
        flag, default = f"--{name.replace('_', '-')}", getattr(settings, name)
        parser.add_argument(flag, type=float, default=default, help=help)
    parser.add_argument(
        "--batching",
        choices=BATCHING,
        default=settings.batching,
        help="which examples share a batch, see docs/training.md",
    )
    add_device(parser, "train")
    add_precision(parser, "train")


def run(arguments: argparse.Namespace) -> int:
    """Prepare, train, and show the table, the pictures and the classifier."""
    settings = _settings(arguments)
    with hold(settings.output / LOCK, settings.output):
        return _run(settings)


def _run(settings: QuickStart) -> int:
    start = time.monotonic()
    shown = [settings.output / name for name in SHOWN]
    check_files(shown)
    encoder = prepare_encoder(settings, _say)
    data = prepare_data(settings, encoder, _say)
    runs = planned_runs(settings, encoder, data)
    first = runs[-1][1]
    _say(f"training {len(runs)} runs; one of them, as you would type it:")
    _say(shlex.join(command(first, settings.output / "runs" / first.name)))
    records = _train(settings, runs)
    list_files(shown)
    table = _report(settings, runs, records)
    print(f"\n{table}\n")
    for path in shown:
        print(f"wrote {path}")
    classifier = classifier_folder(settings)
    print(f"the best model on validation data is in {classifier}; try it:")
    print(
        'echo "a gripping , beautifully acted film" | '
        f"fairseq-scl predict --model {shlex.quote(str(classifier))}"
    )
    print(f"{time.monotonic() - start:.0f} seconds in all")
    return 0


def _settings(arguments: argparse.Namespace) -> QuickStart:
    chosen = {k: v for k, v in vars(arguments).items() if k not in ("run", "verb")}
    at_least(1, arguments, "samples", most=MOST_TIMES)
    at_least(1, arguments, "size", "updates", "validations")
    if chosen["validations"] > chosen["updates"]:
        raise InputError(
            f"--validations is {chosen['validations']}, more than --updates "
            f"({chosen['updates']})"
        )
    if not 0 < chosen["scl_lambda"] <= 1:
        raise InputError(
            f"--scl-lambda is {chosen['scl_lambda']}: it must be above 0 and up to 1 "
            "(0 is the CE run, which is always made)"
        )
    for name in ("learning_rate", "scl_temperature"):
        if not 0 < chosen[name] < float("inf"):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {chosen[name]}: it must be above 0")
    check_device(chosen["device"], chosen["precision"])
    return QuickStart(**chosen)


def _train(
    settings: QuickStart, runs: list[tuple[str, Run]]
) -> dict[str, list[Record]]:
    total = len(runs) * settings.validations
    with tqdm(total=total, unit="validation", file=sys.stderr) as bar:

        def show(name: str, done: int) -> None:
            if (name, done) != (bar.desc.removesuffix(": "), bar.n):
                bar.set_description(name, refresh=False)
                bar.update(done - bar.n)
                bar.refresh()

        return train_all(settings, runs, show)


def _report(
    settings: QuickStart,
    runs: list[tuple[str, Run]],
    records: Mapping[str, list[Record]],
) -> str:
    """Write the table, the runs and the pictures; return the table."""
    any_record = next(iter(records.values()))[0]
    scl_record = list(records.values())[-1][0]
    table = (
        "Test accuracy (%) at the best validation, "
        f"{settings.size} training sentences, {any_record.test[0].total} test\n\n"
        f"{comparison_table(records)}\n\n{signature(scl_record, settings.samples)}"
    )
    with write_then_rename(settings.output / "table.md") as file:
        file.write(table + "\n")
    rows = run_rows(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with write_then_rename(settings.output / "runs.csv") as file:
        file.write(text.getvalue())
    learning_curves(records, settings.output / "curves.png")
    test = read_split(f"{runs[0][1].data}.text", "test")
    matrices = {}
    for loss, first in runs[: len(records)]:
        classifier = load_classifier(model_folder(settings, first), settings.device)
        sentences, _ = encode(classifier, [example.sentences for example in test])
        matrices[loss] = features(classifier, sentences).numpy()
    tsne_comparison(
        matrices, [example.label for example in test], settings.output / "tsne.png"
    )
    return table


def _say(message: str) -> None:
    print(message, flush=True)
