"""``fairseq-scl export``."""

import argparse
from pathlib import Path

from fairseq_scl.inference.model_folder import export_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint of fairseq-train, for example checkpoint_best.pt",
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="data folder that it was trained on",
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
    export_classifier(arguments.checkpoint, arguments.data, arguments.to)
    print(f"wrote {arguments.to}")
    return 0
