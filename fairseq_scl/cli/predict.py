"""``fairseq-scl predict``."""

import argparse
import ctypes
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import (
    FOLDER,
    MODEL_FOLDER,
    SEVERAL,
    add_device,
    add_max_tokens,
    add_precision,
    number,
)
from fairseq_scl.data.quotes import is_quoted
from fairseq_scl.data.readers import QUOTED_TSV
from fairseq_scl.data.texts import counted, one_line
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.inference.early_exit import ExitRule, check_exits, early_probabilities
from fairseq_scl.inference.inputs import (
    EMPTY,
    FORMATS,
    NOT_UTF8,
    ONE_EMPTY,
    QUOTED,
    WITH_NUL,
    Row,
    rows,
)
from fairseq_scl.inference.model_folder import LoadedModel, load_classifier
from fairseq_scl.inference.predict import (
    UNSURE,
    check_outputs,
    check_threshold,
    encode,
    without_second,
)

UNKNOWN, CUT = "with unknown tokens only", "cut to the model's length"
UNREAD = "whose second sentence is not read, because the first is too long"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--model", required=True, **FOLDER, help=MODEL_FOLDER)
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        default="-",
        help="one sentence per line (or two separated by a tab, for a model trained on "
        "pairs), or a table (--columns); - is standard input",
    )
    parser.add_argument(
        "--columns",
        **SEVERAL,
        default=[],
        metavar="NAME",
        help="read a table: names of the columns with one or two sentences",
    )
    parser.add_argument(
        "--input-format",
        choices=FORMATS,
        help="with --columns: format of the table (default: from the file's suffix)",
    )
    parser.add_argument(
        "--echo",
        **SEVERAL,
        default=[],
        metavar="NAME",
        help="also print these columns before the answer; without --columns, text is "
        "the whole line",
    )
    parser.add_argument(
        "--format",
        choices=("tsv", "json"),
        default="tsv",
        help="tsv: label, tab, probability; json: one object per line, with the "
        "probabilities of all labels",
    )
    parser.add_argument(
        "--buffer-size",
        **number(1),
        default=1024,
        help="maximum number of lines to answer at a time; fewer if the input pauses",
    )
    add_max_tokens(parser)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="answer 'unsure' if the largest probability is below P",
    )
    parser.add_argument(
        "--exit-threshold",
        type=float,
        metavar="P",
        help="with a multi-exit model: answer at the first exit whose largest "
        "probability is at least P; above 1 means at the deepest exit",
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
        help="also print the layer of the exit, counted from 1, as the last column or "
        "as exit_layer",
    )
    add_device(parser)
    add_precision(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one line per input line, in order; an empty line gives an empty answer."""
    format = _table_format(arguments)
    rule = ExitRule(arguments.exit_threshold, arguments.exit_patience)
    check_device(arguments.device, arguments.precision)
    with _opened(arguments.file) as stream:
        classifier = load_classifier(
            arguments.model, arguments.device, arguments.precision
        )
        check_exits(classifier, rule, arguments.model)
        check_threshold(arguments.threshold, classifier.labels, "--threshold")
        notes: Counter[str] = Counter()
        columns, echo = arguments.columns, arguments.echo
        file = "" if arguments.file == "-" else arguments.file
        read = rows(stream, notes, classifier.pair, columns, format, echo, file)
        for chunk in _chunks(read, arguments.buffer_size):
            answers = _predicted(classifier, chunk, arguments.max_tokens, notes, rule)
            for row, (answer, layer) in zip(chunk, answers, strict=True):
                line = _formatted(row, answer, layer, classifier.labels, arguments)
                print(line.encode("utf-8", "replace").decode("utf-8"))
            sys.stdout.flush()
            _return_memory()
    if Path(arguments.file).is_file():  # the quotes of the whole file were considered
        del notes[QUOTED]
    for what in (EMPTY, ONE_EMPTY, NOT_UTF8, WITH_NUL, QUOTED, UNKNOWN, CUT, UNREAD):
        if count := notes[what]:
            print(f"fairseq-scl: {counted(count, 'line')} {what}", file=sys.stderr)
    return 0


def _table_format(arguments: argparse.Namespace) -> str:
    """Return the format of the table, ``""`` if each line is an example."""
    last = [*arguments.columns[-1:], *arguments.echo[-1:]]
    if arguments.file == "-" and (files := [n for n in last if Path(n).is_file()]):
        raise InputError(
            f"{files[0]} is read as the name of a column: put the file before "
            "--columns and --echo"
        )
    suffix = Path(arguments.file).suffix.lower().removeprefix(".")
    if not arguments.columns:
        if suffix in ("csv", "jsonl"):
            note(
                f"every line of {arguments.file} is read as a sentence; to read it as "
                "a table, give its text columns with --columns"
            )
        if arguments.input_format:
            raise InputError(
                f"--input-format {arguments.input_format} needs --columns, the names "
                "of the text columns"
            )
        if other := [name for name in arguments.echo if name != "text"]:
            raise InputError(
                f"--echo {other[0]} is a column of a table and needs --columns; "
                "without --columns the only column is text"
            )
        return ""
    format = str(arguments.input_format or suffix)
    if format not in FORMATS:
        raise InputError(
            f"--columns needs --input-format, one of {', '.join(FORMATS)}, because "
            f"{arguments.file} does not end in one of these suffixes"
        )
    if format == "tsv" and is_quoted(Path(arguments.file)):
        return QUOTED_TSV
    return format


def _opened(file: str) -> BinaryIO:
    if file == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed: give a file")
        return sys.stdin.buffer
    if Path(file).is_dir():
        raise InputError(f"{file} is a folder: give a file")
    return open(file, "rb", buffering=0)


def _chunks(read: Iterator[Row | None], size: int) -> Iterator[list[Row]]:
    """Group rows into lists of up to ``size``, fewer when the input pauses."""
    chunk: list[Row] = []
    for row in itertools.chain(read, [None]):
        if row is not None:
            chunk.append(row)
        if chunk and (row is None or len(chunk) == size):
            yield chunk
            chunk = []


def _predicted(
    classifier: LoadedModel,
    chunk: list[Row],
    max_tokens: int,
    notes: Counter[str],
    rule: ExitRule,
) -> Iterator[tuple[torch.Tensor | None, int | None]]:
    """Yield probabilities and exit layer per row, ``None`` for a row without text."""
    texts = [row.sentences for row in chunk if row.sentences is not None]
    encoded, cut = encode(classifier, texts)
    notes[CUT] += cut
    notes[UNREAD] += without_second(classifier, encoded)
    unk = classifier.dictionary.unk()  # lower ids are <s>, <pad> and </s>
    notes[UNKNOWN] += sum(not (row > unk).any() for row in encoded)
    found, layers = early_probabilities(classifier, encoded, rule, max_tokens)
    answers = zip(found, layers.tolist(), strict=True)
    for row in chunk:
        if row.sentences is None:
            yield None, None
            continue
        answer, layer = next(answers)
        check_outputs(classifier, answer, f"line {row.number}: ")
        yield answer, layer


def _formatted(
    row: Row,
    answer: torch.Tensor | None,
    layer: int | None,
    labels: list[str],
    arguments: argparse.Namespace,
) -> str:
    """Format an answer as a line, with echoed columns and the layer if requested."""
    echoed = {name: row.fields[name] for name in arguments.echo}
    label, probability, every = "", "", None
    if answer is not None:
        largest = float(answer.max())
        label, probability = labels[int(answer.argmax())], f"{largest:.4f}"
        if largest < (arguments.threshold or 0):
            label = UNSURE
        every = {
            name: round(float(p), 6) for name, p in zip(labels, answer, strict=True)
        }
    if arguments.format == "tsv":
        # As train spells labels: true, not True.
        before = [
            one_line(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False))
            for v in echoed.values()
        ]
        after = ["" if layer is None else str(layer)] if arguments.show_exit else []
        return "\t".join([*before, label, probability, *after])
    found: dict[str, Any] = {"input": echoed} if echoed else {}
    found |= {
        "label": label or None,
        "probability": max(every.values()) if every else None,
        "probabilities": every,
    }
    if arguments.show_exit:
        found["exit_layer"] = layer
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def _return_memory() -> None:
    """Return freed memory to the system; glibc keeps it after batches of many sizes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
