"""What ``train`` and ``compare`` share: options, the table, the settings of a run."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import (
    FILE,
    SEVERAL,
    add_device,
    add_drop_empty,
    add_encoder,
    add_precision,
    check_learning_rate,
    number,
)
from fairseq_scl.convert.pooling import POOLINGS
from fairseq_scl.data.cut import count_cut, cut_note
from fairseq_scl.data.own_file import guess_columns, read_distinct
from fairseq_scl.data.suspects import Checks
from fairseq_scl.data.texts import Example
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import encoder_pooling, longest_input
from fairseq_scl.experiments.own_training import (
    VALIDATIONS,
    recommended_learning_rate,
    recommended_updates,
)

MAX_POSITIONS = 256


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
        "(default: as recorded in the encoder folder)",
    )
    parser.add_argument(
        "--class-weights",
        choices=("balanced",),
        help="give all classes the same weight in cross-entropy, however many examples "
        "they have (default: all examples have the same weight)",
    )
    limit = f"(default: {MAX_POSITIONS}, or the encoder's maximum)"
    for name, least, what in (
        ("updates", 1, "parameter updates (default: 12·√N for N texts, at least 60)"),
        ("batch-size", 2, "texts in a batch"),
        # <s>, </s> and a token of the text
        ("max-positions", 3, f"longest input in tokens; longer ones are cut {limit}"),
    ):
        default = 16 if name == "batch-size" else None
        parser.add_argument(f"--{name}", **number(least), default=default, help=what)
    parser.add_argument(
        "--learning-rate",
        type=float,
        help="peak learning rate (default: by the encoder's size)",
    )
    add_device(parser, "train")
    add_precision(parser, "train")


def check_training(arguments: argparse.Namespace) -> None:
    """Check the options of training.

    Raises:
        InputError: names the option, its value and what is allowed.
    """
    check_learning_rate(arguments)
    check_device(arguments.device, arguments.precision)


def read_table(arguments: argparse.Namespace) -> list[Example]:
    """Read the distinct examples of the table, and say which columns they are from."""
    columns: Sequence[str] = arguments.columns or guess_columns(arguments.file)
    checks = checks_of(arguments)
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

    Raises:
        InputError: ``--max-positions`` is more than the encoder has.
    """
    updates = arguments.updates or recommended_updates(examples)
    pooling = arguments.pooling or encoder_pooling(encoder)
    longest = longest_input(encoder, pooling)
    if (arguments.max_positions or 0) > longest:
        raise InputError(
            f"--max-positions is {arguments.max_positions}: it must be at most "
            f"{longest}, the longest input of {encoder}"
        )
    rate = arguments.learning_rate or recommended_learning_rate(encoder, recipe)
    return {
        "pooling": pooling,
        "class_weights": arguments.class_weights,
        "updates": updates,
        "validations": min(VALIDATIONS, updates),
        "batch_size": arguments.batch_size,
        "learning_rate": rate,
        "max_positions": arguments.max_positions or min(MAX_POSITIONS, longest),
        "device": arguments.device,
        "precision": arguments.precision,
    }


def note_cut(
    source: object, data: Path, splits: Sequence[str], max_positions: int
) -> None:
    """Note how many texts in splits of a data folder are longer than the input."""
    counts = count_cut(data, splits, max_positions)
    if said := cut_note(source, *counts, max_positions):
        note(said)


def checks_of(arguments: argparse.Namespace) -> Checks:
    """Return the checks of the table's labels; they print their notes."""
    return Checks(any_labels=arguments.labels_are_classes, note=note)
