"""``fairseq-scl translation``: steps of the scripts that train translation models."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from fairseq_scl.augment.parallel_text import clean, make_pieces
from fairseq_scl.augment.translation_model import BLEU, BleuTest, export_translation
from fairseq_scl.cli.options import FOLDER, number
from fairseq_scl.data.files import read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's steps and their options."""
    steps = parser.add_subparsers(required=True, metavar="STEP")

    pieces = steps.add_parser("pieces", help="split a parallel corpus into subwords")
    _add_corpus(pieces)
    pieces.add_argument("--train", default="train", metavar="NAME")
    pieces.add_argument("--valid", default="valid", metavar="NAME")
    pieces.add_argument("--test", default="test", metavar="NAME")
    pieces.add_argument("--pieces", **number(1), default=6000)
    pieces.set_defaults(step=_pieces)

    step = steps.add_parser(
        "clean", help="remove pairs that are unlikely to be translations"
    )
    _add_corpus(step)
    step.set_defaults(step=_clean)

    export = steps.add_parser(
        "export", help="write the folder for backtranslate, and measure its BLEU"
    )
    _add_corpus(export)
    export.add_argument("--test", default="test", metavar="NAME")
    export.add_argument("--checkpoints", type=Path, required=True, metavar="PATH")
    export.add_argument("--last", **number(1), default=5)
    export.add_argument("--data", required=True, **FOLDER)
    export.add_argument("--pieces", type=Path, required=True, metavar="FILE")
    export.add_argument("--tokenizer", choices=("moses",))
    export.add_argument("--beam", **number(1), default=5)
    export.set_defaults(step=_export)


def run(arguments: argparse.Namespace) -> int:
    """Run one step and print its output."""
    print(arguments.step(arguments))
    return 0


def _add_corpus(step: argparse.ArgumentParser) -> None:
    step.add_argument("--from", dest="corpus", required=True, **FOLDER)
    step.add_argument("--source", required=True, metavar="LANGUAGE")
    step.add_argument("--target", required=True, metavar="LANGUAGE")
    step.add_argument("--to", required=True, **FOLDER)


def _pieces(arguments: argparse.Namespace) -> str:
    splits = {name: getattr(arguments, name) for name in ("train", "valid", "test")}
    languages = (arguments.source, arguments.target)
    corpus, folder = arguments.corpus, arguments.to
    counts = make_pieces(corpus, splits, languages, arguments.pieces, folder)
    return f"{folder}: {_listed(counts)}"


def _clean(arguments: argparse.Namespace) -> str:
    languages = (arguments.source, arguments.target)
    counts = clean(arguments.corpus, languages, arguments.to)
    return f"{arguments.to}: {_listed(counts)}"


def _export(arguments: argparse.Namespace) -> str:
    names = export_translation(
        arguments.checkpoints,
        arguments.last,
        arguments.data,
        arguments.pieces,
        arguments.to,
        BleuTest(
            arguments.corpus,
            arguments.test,
            (arguments.source, arguments.target),
            arguments.tokenizer,
            arguments.beam,
        ),
    )
    bleu = read_json(arguments.to / BLEU)["text"]
    return f"{arguments.to}/model.pt: mean of {', '.join(names)}\n{bleu}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
