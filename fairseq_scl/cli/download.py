"""``fairseq-scl download``."""

import argparse
import sys
from pathlib import Path

from fairseq_scl.data.download import download_task
from fairseq_scl.data.tasks import TASKS, find_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--task",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"tasks to download: {', '.join(TASKS)}",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="output folder; pass it to 'fairseq-scl prepare --from'",
    )


def run(arguments: argparse.Namespace) -> int:
    """Download the official files of each task."""
    tasks = [find_task(name) for name in arguments.task]
    for task in tasks:
        folder = download_task(task, arguments.to, progress=sys.stderr.isatty())
        print(f"{task.name}: {folder}", flush=True)
    return 0
