"""``fairseq-scl predict``."""

import argparse
import codecs
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fairseq_scl.cli.options import add_device, add_precision, at_least
from fairseq_scl.device import DTYPES, allow_tf32, check_device
from fairseq_scl.errors import InputError
from fairseq_scl.inference.early_exit import (
    ExitRule,
    check_exits,
    check_rule,
    early_probabilities,
)
from fairseq_scl.inference.model_folder import Classifier, load_classifier
from fairseq_scl.inference.predict import encode

CHUNK = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--model", required=True, type=Path, metavar="FOLDER", help="model folder"
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        default="-",
        help="one sentence a line, or two with a tab between them where the model was "
        "trained on pairs; - is standard input",
    )
    parser.add_argument(
        "--format",
        choices=("tsv", "json"),
        default="tsv",
        help="tsv: label, tab, probability; json: one object a line with the "
        "probabilities of all labels",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=4096,
        metavar="N",
        help="tokens in a batch, padding included",
    )
    parser.add_argument(
        "--exit-threshold",
        type=float,
        metavar="P",
        help="with a multi-exit model: answer at the first exit whose largest "
        "probability is at least P; above 1 = the deepest exit",
    )
    parser.add_argument(
        "--exit-patience",
        type=int,
        metavar="K",
        help="with a multi-exit model: answer at the first exit that predicts the same "
        "label as the K - 1 exits before it",
    )
    parser.add_argument(
        "--show-exit",
        action="store_true",
        help="print the layer of the exit too, counted from 1: a third column, or "
        "exit_layer",
    )
    add_device(parser)
    add_precision(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each line read, in the same order; empty for an empty one."""
    at_least(1, arguments, "max_tokens")
    if arguments.file != "-" and not Path(arguments.file).is_file():
        raise InputError(f"missing file: {arguments.file}")
    rule = ExitRule(arguments.exit_threshold, arguments.exit_patience)
    check_rule(rule)
    check_device(arguments.device, arguments.precision)
    classifier = load_classifier(arguments.model, arguments.device)
    classifier.model.to(DTYPES[arguments.precision])
    allow_tf32(arguments.precision)
    check_exits(classifier, rule, arguments.model)
    notes = dict.fromkeys(("empty", "not UTF-8", "cut to the model's length"), 0)
    with _opened(arguments.file) as stream:
        lines = _decoded(stream, notes)
        for chunk in _chunks(lines, stream.isatty()):
            for row, layer in _predicted(
                classifier, chunk, arguments.max_tokens, notes, rule
            ):
                exits = [layer] if arguments.show_exit else []
                print(_formatted(row, exits, classifier.labels, arguments.format))
            sys.stdout.flush()
    for note, count in notes.items():
        if count:
            noun = "line" if count == 1 else "lines"
            print(f"fairseq-scl: {count} {noun} {note}", file=sys.stderr)
    return 0


def _opened(file: str) -> BinaryIO:
    return sys.stdin.buffer if file == "-" else open(file, "rb")


def _decoded(stream: Iterable[bytes], notes: dict[str, int]) -> Iterator[str]:
    for number, line in enumerate(stream):
        line = line if number else line.removeprefix(codecs.BOM_UTF8)
        text = line.rstrip(b"\r\n").decode("utf-8", errors="replace")
        notes["not UTF-8"] += "\ufffd" in text and b"\xef\xbf\xbd" not in line
        yield text


def _chunks(lines: Iterator[str], at_once: bool) -> Iterator[list[tuple[int, str]]]:
    """Group numbered lines; a person at a terminal gets an answer to each line."""
    numbered = enumerate(lines, start=1)
    while chunk := list(itertools.islice(numbered, 1 if at_once else CHUNK)):
        yield chunk


def _predicted(
    classifier: Classifier,
    chunk: list[tuple[int, str]],
    max_tokens: int,
    notes: dict[str, int],
    rule: ExitRule,
) -> Iterator[tuple[torch.Tensor | None, int | None]]:
    """Yield probabilities and exit of each line, ``None`` where there is no text."""
    examples = [_columns(classifier, number, text) for number, text in chunk]
    texts = [example for example in examples if example is not None]
    notes["empty"] += len(examples) - len(texts)
    encoded, cut = encode(classifier, texts)
    notes["cut to the model's length"] += cut
    rows, layers = early_probabilities(classifier, encoded, rule, max_tokens)
    found = zip(rows, layers.tolist(), strict=True)
    for example in examples:
        yield (None, None) if example is None else next(found)


def _columns(classifier: Classifier, number: int, text: str) -> tuple[str, ...] | None:
    if not text.strip():
        return None
    if not classifier.pair:
        return (text,)
    columns = tuple(text.split("\t"))
    if len(columns) != 2:
        raise InputError(
            f"line {number} has {len(columns)} columns: this model takes two sentences "
            "with a tab between them"
        )
    return columns


def _formatted(
    row: torch.Tensor | None, exits: list[int | None], labels: list[str], format: str
) -> str:
    """Set an answer as a line; ``exits`` holds the layer if it is asked for."""
    label, probability, every = "", "", None
    if row is not None:
        best = int(row.argmax())
        label, probability = labels[best], f"{row[best]:.4f}"
        every = {name: round(float(p), 6) for name, p in zip(labels, row, strict=True)}
    if format == "tsv":
        layers = ["" if layer is None else str(layer) for layer in exits]
        return "\t".join([label, probability, *layers])
    answer: dict[str, Any] = {
        "label": label or None,
        "probability": every[label] if every else None,
        "probabilities": every,
    }
    if exits:
        answer["exit_layer"] = exits[0]
    return json.dumps(answer, ensure_ascii=False)
