"""``fairseq-scl prepare``."""

import argparse
import shlex
from pathlib import Path

from fairseq_scl.data.binarise import binarise, fairseq_flags, read_labels
from fairseq_scl.data.texts import SPLITS, read_split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--text",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder with train.input0, train.label and, for pairs, train.input1; the "
        "same for valid and test where there are any; UTF-8, one example a line",
    )
    parser.add_argument(
        "--encoder",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="encoder folder whose dictionary and tokeniser are used",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="data folder to write, the first argument of fairseq-train",
    )


def run(arguments: argparse.Namespace) -> int:
    """Binarise the splits that are there and print what fairseq-train needs."""
    splits = {
        split: read_split(arguments.text, split)
        for split in SPLITS
        if split == "train" or (arguments.text / f"{split}.input0").exists()
    }
    counts = binarise(splits, arguments.encoder, arguments.to)
    print(f"wrote {arguments.to}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    names = enumerate(read_labels(arguments.to))
    print("classes: " + ", ".join(f"{number} = {name}" for number, name in names))
    print("flags for fairseq-train: " + shlex.join(fairseq_flags(arguments.to)))
    return 0
