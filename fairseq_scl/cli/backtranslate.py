"""``fairseq-scl backtranslate``."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairseq_scl.augment.backtranslate import Plan, backtranslate, finished, name_of
from fairseq_scl.augment.directions import find_models
from fairseq_scl.augment.sampler.decoding import MAX_TOKENS
from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.augment.segment import BPES, TOKENIZERS
from fairseq_scl.cli.options import (
    FOLDER,
    MOST_TIMES,
    SEVERAL,
    SEVERAL_FOLDERS,
    add_device,
    add_own_table,
    add_precision,
    number,
)
from fairseq_scl.data.binarize import TEXT, read_examples
from fairseq_scl.data.files import check_name
from fairseq_scl.data.folders import check_outside
from fairseq_scl.data.outputs import BackTranslationRecord
from fairseq_scl.data.readers import own_table
from fairseq_scl.data.renames import remove_leftovers
from fairseq_scl.data.texts import Example, counted, digest
from fairseq_scl.errors import InputError, first_few

KNOWN = ("outputs", "examples", "copies")


@dataclass(frozen=True)
class _Input:
    """Examples to augment, and the name of their output file."""

    name: str
    examples: list[Example]
    notes: Mapping[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--sample",
        **SEVERAL_FOLDERS,
        help="data folders written by 'fairseq-scl prepare' whose training sentences "
        "are augmented",
    )
    add_own_table(parser, source)
    parser.add_argument(
        "--to",
        required=True,
        **FOLDER,
        help="output folder for NAME-bt0.3.jsonl and a record of each such file; "
        "existing files are kept",
    )
    _add_models(parser.add_argument_group("models"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_machine(parser.add_argument_group("machine"))


def _add_models(group: argparse._ArgumentGroup) -> None:
    for way, text in (("forward", "to the other language"), ("backward", "back")):
        group.add_argument(
            f"--{way}",
            required=True,
            metavar="MODEL[:MODEL...]",
            help=f"models {text}, several as an ensemble: checkpoints of fairseq-train,"
            " folders as published by fairseq (all *.pt, dict.en.txt, dict.de.txt, BPE "
            "codes), or wmt18 or wmt19 to download them"
            + (
                ". A WMT'18 model from German to English was never published: use "
                "wmt19's single model, or train one with scripts/train_wmt18_de_en.sh"
                if way == "backward"
                else ""
            ),
        )
    group.add_argument(
        "--models-from",
        **FOLDER,
        help="folder with the archives of wmt18 and wmt19, instead of a download",
    )
    group.add_argument(
        "--language", default="en", metavar="LANG", help="language of the sentences"
    )
    group.add_argument(
        "--pivot", default="de", metavar="LANG", help="the other language"
    )
    group.add_argument(
        "--tokenizer", choices=TOKENIZERS, help="word tokenizer to apply before BPE"
    )
    group.add_argument(
        "--bpe",
        choices=BPES,
        help="BPE of the models (default: detected from the files beside them)",
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--temperature",
        **SEVERAL,
        type=float,
        default=[0.3, 0.5, 0.7, 0.9],
        metavar="T",
        help="sampling temperatures, one file each; the defaults are the paper's",
    )
    group.add_argument(
        "--temperature-backward",
        type=float,
        metavar="T",
        help="sampling temperature of the backward models (default: the same)",
    )
    group.add_argument(
        "--copies",
        **number(1, MOST_TIMES),
        default=3,
        help="new examples per example",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--top-k",
        **number(0),
        default=0,
        help="sample from the N most likely tokens only; 0 = from all, as in the paper",
    )
    choice.add_argument(
        "--top-p",
        type=float,
        default=0.0,
        metavar="P",
        help="sample only from the most likely tokens whose probabilities add up to "
        "P; 0 = from all",
    )
    choice.add_argument(
        "--beam",
        **number(0, MOST_TIMES),
        default=0,
        help="beam search with N beams instead of sampling; the copies are its best "
        "hypotheses; 0 = sampling",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-tokens",
        **number(1),
        help="tokens per batch, including padding and copies; does not affect the "
        f"output (default: {MAX_TOKENS['cpu']}, on a GPU {MAX_TOKENS['cuda']})",
    )
    add_device(group)
    add_precision(group)


def run(arguments: argparse.Namespace) -> int:
    """Write the augmented files, one per input and temperature."""
    _check(arguments)
    check_outside(arguments.to)
    inputs = _inputs(arguments)
    remove_leftovers(arguments.to)
    home, away = arguments.language, arguments.pivot
    more = (arguments.tokenizer, arguments.bpe, arguments.models_from)
    ways = {
        "forward": find_models(arguments.forward, home, away, *more),
        "backward": find_models(arguments.backward, away, home, *more),
    }
    about: dict[str, Any] = {way: models.describe() for way, models in ways.items()}
    about = {"models": about, "precision": arguments.precision}
    wanted = []
    for temperature in arguments.temperature:
        for given in inputs:
            plan = _plan(arguments, temperature, about, given)
            name = name_of(given.name, temperature, arguments.temperature_backward)
            wanted.append((arguments.to / name, plan, given))
    left = [item for item in wanted if not finished(item[0], item[1])]
    for target, plan, _ in wanted:
        if finished(target, plan):
            print(f"{target}: already exists", flush=True)
    if not left:
        return 0
    forward, backward = (
        models.load(arguments.device, arguments.precision) for models in ways.values()
    )
    total = sum(
        2 * arguments.copies * sum(len(e.sentences) for e in given.examples)
        for _, _, given in left
    )
    with tqdm(total=total, unit=" sentences", disable=None, smoothing=0) as bar:
        for target, plan, given in left:
            bar.set_description(target.name)
            record = backtranslate(
                given.examples,
                forward,
                backward,
                plan,
                target,
                max_tokens=arguments.max_tokens,
                on_done=bar.update,
            )
            with bar.external_write_mode():
                _tell(target, record)
                _name_troubles(record, given)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.table is not None and arguments.columns is None:
        raise InputError("--table needs --columns")
    if arguments.table is None and arguments.columns is not None:
        raise InputError("--columns needs --table, not --sample")
    temperatures = list(arguments.temperature)
    if arguments.temperature_backward is not None:
        temperatures.append(arguments.temperature_backward)
    for value in temperatures:
        if not 0.01 <= value <= 100:
            raise InputError(
                f"a temperature is {value:g}: it must be from 0.01 (nearly always the "
                "most likely token) to 100"
            )
        if float(f"{value:g}") != value:
            raise InputError(
                f"a temperature is {value!r}: use at most six digits, as file names "
                f"do: {value:g}"
            )
    if not 0 <= arguments.top_p <= 1:
        raise InputError(f"--top-p is {arguments.top_p:g}: it must be from 0 to 1")


def _inputs(arguments: argparse.Namespace) -> list[_Input]:
    for path in arguments.sample or [arguments.table]:
        check_name(path.resolve().name, f"{path}: its name")
    if arguments.table is not None:
        table = own_table(arguments.table, arguments.columns, keep_all=True)
        examples = [example for _, example in table]
        if not examples:
            raise InputError(f"{arguments.table} has no rows")
        return [_Input(arguments.table.stem, examples, table.left_out)]
    names = Counter(folder.resolve().name for folder in arguments.sample)
    for name, count in names.items():
        if count > 1:
            raise InputError(
                f"--sample has {count} folders named {name}, whose output files would "
                "have the same name: augment the tasks one by one"
            )
    return [
        _Input(folder.resolve().name, _of_sample(folder), {})
        for folder in arguments.sample
    ]


def _of_sample(folder: Path) -> list[Example]:
    """Read a training set, with the lines of its texts as origins of examples."""
    examples = enumerate(read_examples(folder, "train"), start=1)
    texts = folder / TEXT / "train.input0"
    return [replace(one, origin=f"{texts}, line {number}") for number, one in examples]


def _plan(
    arguments: argparse.Namespace,
    temperature: float,
    about: Mapping[str, Any],
    given: _Input,
) -> Plan:
    more = {name: getattr(arguments, name) for name in ("top_k", "top_p", "beam")}
    home = arguments.temperature_backward or temperature
    described = {"name": given.name, "sha256": digest(given.examples)}
    return Plan(
        seed=arguments.seed,
        copies=arguments.copies,
        forward=DecodingMethod(temperature, **more),
        backward=DecodingMethod(home, **more),
        about={**about, "input": {**described, "notes": dict(given.notes)}},
    )


def _tell(target: Path, record: BackTranslationRecord) -> None:
    counts = record.counts
    text = f"{counts['outputs']} outputs of {counted(counts['examples'], 'example')}"
    others = {k: n for k, n in counts.items() if n and k not in KNOWN}
    text += "".join(f", {n} {name}" for name, n in others.items())
    print(f"{target}: {text}", flush=True)


def _name_troubles(record: BackTranslationRecord, given: _Input) -> None:
    """Print which examples had problems, the first few of each kind."""
    for note, count in given.notes.items():
        print(f"fairseq-scl: {counted(count, 'example')} {note}", file=sys.stderr)
    for trouble, origins in {**record.origins, **record.sources}.items():
        if not origins:
            continue
        places = first_few((given.examples[n].origin for n in origins), "; ")
        print(
            f"fairseq-scl: {counted(len(origins), 'example')} {trouble}: {places}",
            file=sys.stderr,
        )
