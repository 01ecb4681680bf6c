"""``fairseq-scl exits``."""

import argparse

from tqdm import tqdm

from fairseq_scl.cli.options import (
    MOST_TIMES,
    add_device,
    add_max_tokens,
    add_split,
    check_distinct,
    files_to_write,
    named_folders,
    number,
)
from fairseq_scl.data.folders import verify
from fairseq_scl.errors import InputError
from fairseq_scl.inference.exit_speed import CLOCKS, THRESHOLDS, measure_exits
from fairseq_scl.report.exit_curves import write_exits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_split(
        parser,
        done="labeled",
        model="model folder with several exits, one curve each; repeatable",
        files="PNG file to write, along with PDF, Markdown and JSON files of the same "
        "name",
    )
    parser.add_argument(
        "--thresholds",
        default=",".join(f"{threshold:g}" for threshold in THRESHOLDS),
        metavar="LIST",
        help="values of 'fairseq-scl predict --exit-threshold' to measure",
    )
    parser.add_argument(
        "--repeats",
        **number(1, MOST_TIMES),
        default=5,
        help="number of measurements; medians are shown",
    )
    add_max_tokens(parser)
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="wall time, or the processor time of this process (cpu) on a machine that "
        "is busy with other work",
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files and print the table."""
    files = files_to_write(arguments.to, ".png", ".pdf", ".md", ".json")
    if arguments.clock == "cpu" and arguments.device != "cpu":
        raise InputError(
            "--clock is cpu, which does not measure work on a GPU: use --device cpu"
        )
    models = named_folders("--model", arguments.model)
    for folder in {arguments.data, *models.values()}:
        verify(folder)
    thresholds = _thresholds(arguments.thresholds)
    names = ("split", "repeats", "max_tokens", "device", "clock")
    settings = {name: getattr(arguments, name) for name in names}
    rounds = 1 + arguments.repeats  # one to warm up
    with tqdm(total=rounds * len(models), unit=" passes", disable=None) as bar:
        points = measure_exits(
            arguments.data,
            models,
            thresholds=thresholds,
            on_done=bar.update,
            **settings,
        )
    print(write_exits(points, arguments.data, models, arguments.to, settings))
    for file in files:
        print(f"wrote {file}")
    return 0


def _thresholds(value: str) -> list[float]:
    try:
        thresholds = [float(word) for word in value.split(",")]
    except ValueError as error:
        raise InputError(
            f"--thresholds is {value!r}: it must be numbers separated by commas"
        ) from error
    check_distinct("--thresholds", thresholds)
    return thresholds
