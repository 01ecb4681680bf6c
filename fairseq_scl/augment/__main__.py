"""``python -m fairseq_scl.augment STEP``: what the scripts that train models run."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.augment.parallel_text import clean, find_text, make_pieces
from fairseq_scl.augment.publish import measure_bleu, publish
from fairseq_scl.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        the exit status: 0, or 2 for bad input.
    """
    logging.getLogger().setLevel(logging.WARNING)
    arguments = _parser().parse_args(argv)
    try:
        sys.stdout.write(f"{arguments.run(arguments)}\n")
    except InputError as error:
        sys.stderr.write(f"fairseq_scl.augment: error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fairseq_scl.augment")
    steps = parser.add_subparsers(required=True, metavar="STEP")

    step = steps.add_parser("pieces", help="cut a parallel corpus into pieces")
    _add_texts(step)
    step.add_argument("--train", default="train", metavar="NAME")
    step.add_argument("--valid", default="valid", metavar="NAME")
    step.add_argument("--test", default="test", metavar="NAME")
    step.add_argument("--pieces", type=int, default=6000, metavar="N")
    step.set_defaults(run=_pieces)

    step = steps.add_parser("clean", help="leave out what can hardly be a translation")
    _add_texts(step)
    step.set_defaults(run=_clean)

    step = steps.add_parser(
        "publish", help="write the folder to translate with, and measure its BLEU"
    )
    _add_texts(step)
    step.add_argument("--test", default="test", metavar="NAME")
    step.add_argument("--checkpoints", type=Path, required=True, metavar="PATH")
    step.add_argument("--last", type=int, default=5, metavar="N")
    step.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    step.add_argument("--pieces", type=Path, required=True, metavar="FILE")
    step.add_argument("--tokenizer", choices=("moses",))
    step.add_argument("--beam", type=int, default=5, metavar="N")
    step.set_defaults(run=_publish)
    return parser


def _add_texts(step: argparse.ArgumentParser) -> None:
    step.add_argument("--from", dest="corpus", type=Path, required=True)
    step.add_argument("--source", required=True, metavar="LANGUAGE")
    step.add_argument("--target", required=True, metavar="LANGUAGE")
    step.add_argument("--to", type=Path, required=True, metavar="FOLDER")


def _pieces(arguments: argparse.Namespace) -> str:
    splits = {name: getattr(arguments, name) for name in ("train", "valid", "test")}
    counts = make_pieces(
        arguments.corpus, splits, _pair(arguments), arguments.pieces, arguments.to
    )
    return f"{arguments.to}: {_listed(counts)}"


def _clean(arguments: argparse.Namespace) -> str:
    counts = clean(arguments.corpus, _pair(arguments), arguments.to)
    return f"{arguments.to}: {_listed(counts)}"


def _publish(arguments: argparse.Namespace) -> str:
    source, target = _pair(arguments)
    test = (
        find_text(arguments.corpus, f"{arguments.test}.{source}"),
        find_text(arguments.corpus, f"{arguments.test}.{target}"),
    )
    result: dict[str, Any] = {}

    def measure(folder: Path) -> None:
        result.update(
            measure_bleu(
                folder, (source, target), test, arguments.tokenizer, arguments.beam
            )
        )

    names = publish(
        arguments.checkpoints,
        arguments.last,
        arguments.data,
        arguments.pieces,
        arguments.to,
        measure,
    )
    return f"{arguments.to}/model.pt: mean of {', '.join(names)}\n{result['text']}"


def _pair(arguments: argparse.Namespace) -> tuple[str, str]:
    return arguments.source, arguments.target


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
