"""``fairseq-scl figure``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fairseq_scl.cli.options import (
    add_device,
    add_split,
    files_to_write,
    named_folders,
)
from fairseq_scl.data.folders import verify
from fairseq_scl.errors import InputError
from fairseq_scl.report.figures import draw_features

FORM = "[ROW:]NAME=FOLDER"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_split(
        parser,
        done="drawn",
        model="model folder of a panel (repeatable): CE=… and CE+SCL=… are side by "
        "side, 20:CE=… and 100:CE=… one above the other",
        files="PNG file to write, along with PDF and JSON files of the same name",
        form=FORM,
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of t-SNE")
    parser.add_argument(
        "--perplexity",
        type=float,
        default=30.0,
        help="perplexity of t-SNE; lowered if there are few examples",
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw the figure and print the silhouette scores."""
    files = files_to_write(arguments.to, ".png", ".pdf", ".json")
    if not 1 <= arguments.perplexity < float("inf"):
        raise InputError(
            f"--perplexity is {arguments.perplexity}: it must be at least 1"
        )
    if not 0 <= arguments.seed < 2**32:
        raise InputError(f"--seed is {arguments.seed}: it must be from 0 to 2^32 - 1")
    models = _panels(arguments.model)
    for folder in {arguments.data, *models.values()}:
        verify(folder)
    scores = draw_features(
        arguments.data,
        models,
        arguments.split,
        arguments.to,
        arguments.device,
        arguments.seed,
        arguments.perplexity,
    )
    for (row, name), score in scores.items():
        print(f"silhouette of {', '.join(filter(None, (row, name)))}: {score:.3f}")
    for file in files:
        print(f"wrote {file}")
    return 0


def _panels(given: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Return model folders by row and name; a numeric row becomes ``N = 20``."""
    panels: dict[tuple[str, str], Path] = {}
    for title, folder in named_folders("--model", given, FORM).items():
        row, _, name = title.rpartition(":")
        if not name:
            raise InputError(f"--model '{title}={folder}': it must be {FORM}")
        row = f"N = {row}" if row.isascii() and row.isdecimal() else row
        if (row, name) in panels:
            raise InputError(f"--model '{title}={folder}': {title} is given twice")
        panels[row, name] = folder
    return panels
