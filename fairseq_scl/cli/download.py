"""``fairseq-scl download``."""

import argparse
import sys

from fairseq_scl.cli.options import FOLDER, SEVERAL, add_encoder, encoder_folder
from fairseq_scl.data.download import download_task
from fairseq_scl.data.tasks import TASKS, find_task
from fairseq_scl.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--task",
        **SEVERAL,
        default=[],
        metavar="NAME",
        help=f"tasks to download: {', '.join(TASKS)}",
    )
    parser.add_argument(
        "--to",
        **FOLDER,
        help="with --task: output folder; pass it to 'fairseq-scl prepare --from'",
    )
    add_encoder(parser, "encoder to download; its folder is printed")


def run(arguments: argparse.Namespace) -> int:
    """Download the official files of each task, or an encoder."""
    if arguments.encoder is None and not arguments.task:
        raise InputError("give --task or --encoder: what to download")
    if arguments.task and arguments.to is None:
        raise InputError("--task needs --to, the folder for its files")
    if arguments.to is not None and not arguments.task:
        raise InputError("--to needs --task; encoders are kept in --cache")
    tasks = [find_task(name) for name in arguments.task]
    for task in tasks:
        folder = download_task(task, arguments.to, progress=sys.stderr.isatty())
        print(f"{task.name}: {folder}", flush=True)
    if arguments.encoder is not None:
        folder = encoder_folder(arguments.encoder, arguments.cache)
        print(folder)
    return 0
