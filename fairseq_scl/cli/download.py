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
        help=f"which tasks: {', '.join(TASKS)}",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder to write; 'fairseq-scl prepare --from' takes it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fetch the official files of each task."""
    tasks = [find_task(name) for name in arguments.task]
    for task in tasks:
        folder = download_task(task, arguments.to, progress=sys.stderr.isatty())
        print(f"{task.name}: {folder}", flush=True)
    return 0
