"""``python -m benchmarks``: one table over all questions, or over some."""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.pairs import PeerMissing, Row, Settings
from fairseq_scl.errors import InputError

# One file per question, in this order.
QUESTIONS = ("loss", "criterion", "encoder", "gradient_cache", "sweep", "backtranslate")
# Those that `make bench-gpu` asks; without a GPU they are a rehearsal of tiny shapes.
GPU_QUESTIONS = ("gpu_step", "gpu_translate", "gpu_sweep")
VERSIONS = (
    "fairseq-scl",
    "torch",
    "fairseq",
    "fairseq-fixed",
    "transformers",
    "pytorch-metric-learning",
)
COLUMNS = ("question", "setting", "ours", "peer", "ratio", "spread", "target")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks and print their table; return the exit status."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    settings = Settings(
        arguments.rounds, arguments.threads, arguments.glue, arguments.translation
    )
    questions = arguments.only or (GPU_QUESTIONS if arguments.gpu else QUESTIONS)
    skipped: dict[str, str] = {}
    found = rows_of(questions, settings, skipped)
    about = machine(arguments.threads)
    if arguments.json:
        table = [asdict(row) for row in found]
        print(json.dumps({**about, "rows": table, "skipped": skipped}, indent=2))
        return 0
    for name, value in about.items():
        print(f"{name}: {value}")
    print(f"\n{markdown_line(COLUMNS)}\n{markdown_line(['---'] * len(COLUMNS))}")
    for row in found:
        print(markdown_line(cells(row)), flush=True)
    for question, reason in skipped.items():
        print(f"\n{question} was left out: {reason}")
    return 0


def rows_of(
    questions: Sequence[str], settings: Settings, skipped: dict[str, str]
) -> Iterator[Row]:
    """Yield the rows of each question as they come.

    Args:
        questions: names of modules of this package.
        settings: handed to each.
        skipped: gets the reason for each question that could not be finished.
    """
    for question in questions:
        print(f"benchmarks: {question} …", file=sys.stderr, flush=True)
        try:
            yield from importlib.import_module(f"benchmarks.{question}").rows(settings)
        except (PeerMissing, InputError) as error:
            skipped[question] = str(error)


def cells(row: Row) -> list[str]:
    """Return the row as text, by the columns of the table."""
    verdict = {None: "", True: ", met", False: ", missed"}[row.met]
    return [
        row.question,
        row.setting,
        f"{_figure(row.ours)} {row.unit}",
        f"{_figure(row.peer)} {row.unit}",
        f"{row.ratio:.3g}",
        f"{row.low:.3g} to {row.high:.3g}",
        row.target + verdict,
    ]


def markdown_line(texts: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def machine(threads: int) -> dict[str, str]:
    """Describe the machine, the versions and the threads in use."""
    versions = {}
    for package in VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    about = {
        "processor": f"{_processor()}, {os.cpu_count()} cores, {threads} threads used",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    if torch.cuda.is_available():
        about["gpu"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return about


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _figure(value: float) -> str:
    """Write three digits, and whole numbers in full."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"it must be at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare speed and memory with others' code, in alternating pairs.",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON in place of the table"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=QUESTIONS + GPU_QUESTIONS,
        help="this question only; can be given again (default: all)",
    )
    parser.add_argument(
        "--gpu", action="store_true", help="ask the questions about a GPU instead"
    )
    parser.add_argument(
        "--glue", type=Path, metavar="FOLDER", help="folder with the tasks of GLUE"
    )
    parser.add_argument(
        "--translation",
        type=Path,
        metavar="FOLDER",
        help="folder of an English-German model, as train_translation.sh writes it",
    )
    parser.add_argument(
        "--rounds",
        type=_at_least_one,
        default=Settings.rounds,
        metavar="N",
        help="pairs of measurements behind a row (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=_at_least_one,
        default=Settings.threads,
        metavar="N",
        help="threads of PyTorch (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
