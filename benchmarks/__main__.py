"""``python -m benchmarks``: print one table for all or some of the questions."""

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
# Questions of `make bench-gpu`; without a GPU they rehearse with tiny shapes.
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
    """Yield the rows of each question as soon as they are measured.

    Args:
        questions: names of modules of this package.
        settings: passed to each question.
        skipped: filled with the reason for each question that could not finish.
    """
    for question in questions:
        print(f"benchmarks: {question} …", file=sys.stderr, flush=True)
        try:
            yield from importlib.import_module(f"benchmarks.{question}").rows(settings)
        except (PeerMissing, InputError) as error:
            skipped[question] = str(error)


def cells(row: Row) -> list[str]:
    """Return the row as text, one string per column of the table."""
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
    """Format with three significant digits, or as a whole number from 1000 on."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"it must be at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare speed and memory with other implementations, in "
        "alternating pairs.",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of the table"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=QUESTIONS + GPU_QUESTIONS,
        help="run only this question; can be repeated (default: all)",
    )
    parser.add_argument(
        "--gpu", action="store_true", help="run the GPU questions instead"
    )
    parser.add_argument(
        "--glue", type=Path, metavar="FOLDER", help="folder with the GLUE tasks"
    )
    parser.add_argument(
        "--translation",
        type=Path,
        metavar="FOLDER",
        help="folder of an English-German model, as written by train_translation.sh",
    )
    parser.add_argument(
        "--rounds",
        type=_at_least_one,
        default=Settings.rounds,
        metavar="N",
        help="pairs of measurements per row (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=_at_least_one,
        default=Settings.threads,
        metavar="N",
        help="number of PyTorch threads (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
