"""``fairseq-scl prepare``."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import (
    FILE,
    FOLDER,
    MOST_TIMES,
    SEVERAL,
    add_drop_empty,
    add_encoder,
    add_own_table,
    encoder_folder,
    number,
)
from fairseq_scl.data.augmented import add_outputs
from fairseq_scl.data.binarize import fairseq_flags, read_labels
from fairseq_scl.data.files import files_in
from fairseq_scl.data.folders import DATA, MANIFEST, folders_then_rename
from fairseq_scl.data.own_splits import prepare_splits
from fairseq_scl.data.readers import QUOTED_TSV, own_table
from fairseq_scl.data.samples import Draw, Source, prepare_samples
from fairseq_scl.data.suspects import Checks
from fairseq_scl.data.tasks import TASKS, find_task
from fairseq_scl.data.texts import SPLITS
from fairseq_scl.data.unknown import MAX_UNKNOWN, share_unknown
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import Manifest
from fairseq_scl.typed import read_as

# The option that a kind of source needs, and the options that go with some kinds only.
NEEDS = {"task": "folder", "table": "columns", "sample": "augmented"}
GOES_WITH = {
    ("task",): ("folder", "partial"),
    ("table",): ("columns", "held_out", "drop_empty"),
    ("sample",): ("augmented", "views"),
    ("text", "table"): ("labels_are_classes",),
    ("task", "table"): (
        *("few_shot", "full", "samples", "seed", "size_valid", "size_test"),
        *("balanced", "flip_labels"),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--text",
        **FOLDER,
        help="folder with train.input0, train.label and, for pairs, train.input1, and "
        "the same for valid and test if available; UTF-8, one example per line",
    )
    source.add_argument(
        "--task",
        metavar="NAME",
        help=f"task of the paper, needs --from: {', '.join(TASKS)}",
    )
    source.add_argument(
        "--sample",
        **FOLDER,
        help="data folder to which back-translations are added, or a folder with "
        "several of them (n100-sample0 …); needs --augmented",
    )
    add_own_table(parser, source)
    add_encoder(parser, "encoder whose dictionary and tokenizer are used", True)
    parser.add_argument(
        "--to",
        required=True,
        **FOLDER,
        help="with --text and --sample: data folder to write, the first argument of "
        "fairseq-train; with --task and --table: folder for several data folders, such "
        "as full and n20-sample0",
    )
    parser.add_argument(
        "--from",
        dest="folder",
        **FOLDER,
        help="with --task: the official folder (SST-2 …) or its parent",
    )
    parser.add_argument(
        "--held-out",
        **FILE,
        help="with --table: file from which validation and test are drawn, half of it "
        "for test; without it they are drawn from the table",
    )
    add_drop_empty(parser, "with --table: ")
    parser.add_argument(
        "--augmented",
        **FILE,
        help="with --sample: output of 'fairseq-scl backtranslate' for its training "
        "set, which is appended to the examples; validation and test stay the same. "
        "Or a folder of such files: n100-sample0-bt0.3.jsonl becomes the data folder "
        "n100-sample0-bt0.3 in --to",
    )
    parser.add_argument(
        "--views",
        action="store_true",
        help="with --sample: keep the training set as it is and store the first two "
        "outputs of each example as its views, for the criterion's --scl-views",
    )
    parser.add_argument(
        "--max-unknown",
        type=float,
        default=MAX_UNKNOWN,
        metavar="SHARE",
        help="largest share of tokens in any split that may be unknown to the "
        "encoder's dictionary; 1 disables the check",
    )
    parser.add_argument(
        "--labels-are-classes",
        action="store_true",
        help="with --text and --table: accept labels that look like ratings, several "
        "labels in one, or different spellings of the same label",
    )
    _add_drawing(
        parser.add_argument_group("splits and samples, for --task and --table")
    )


def _add_drawing(group: argparse._ArgumentGroup) -> None:
    """Add options without defaults, so that those that do not fit are noticed."""
    group.add_argument(
        "--few-shot",
        **SEVERAL,
        type=int,
        metavar="N",
        help="sizes of few-shot samples, in examples; by default the full training set "
        "is prepared",
    )
    group.add_argument(
        "--full",
        action="store_true",
        help="also prepare the full training set, in addition to few-shot samples",
    )
    group.add_argument(
        "--samples",
        **number(1, MOST_TIMES),
        help=f"number of samples per size (default: {Draw.samples})",
    )
    group.add_argument(
        "--seed",
        **number(0),
        help=f"seed of the split and of all samples (default: {Draw.seed})",
    )
    group.add_argument(
        "--size-valid",
        **number(1),
        help="validation examples, or all that remain after the test set if fewer "
        f"(default: {Draw.size_valid})",
    )
    group.add_argument(
        "--size-test",
        **number(1),
        help="test examples (default: half of the original validation set; with "
        "--table and without --held-out: as many as for validation)",
    )
    group.add_argument(
        "--balanced",
        action="store_true",
        help="draw few-shot samples with the same number of examples per class, not "
        "the label distribution of the training set (always for Amazon-2 and Yelp-2)",
    )
    group.add_argument(
        "--partial",
        action="store_true",
        help="with --task: accept files with missing rows",
    )
    group.add_argument(
        "--flip-labels",
        **SEVERAL,
        type=float,
        metavar="SHARE",
        help="label noise: share of the training labels of each class to flip. 0.1 "
        "writes n100-sample0-flip0.1 instead of n100-sample0; several shares (0 for "
        "none) write one folder each; draw.json lists the flipped rows",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write data folders and print the flags for fairseq-train."""
    _refuse_strangers(arguments)
    if not 0 <= arguments.max_unknown <= 1:
        raise InputError(
            f"--max-unknown is {arguments.max_unknown:g}: it must be from 0 to 1"
        )
    arguments.encoder = encoder_folder(arguments.encoder, arguments.cache)
    checks = Checks(arguments.max_unknown, arguments.labels_are_classes, note)
    if arguments.text is not None:
        to = arguments.to
        _tell(to, prepare_splits(arguments.text, arguments.encoder, to, checks))
        _print_flags(to)
        return 0
    if arguments.sample is not None:
        _prepare_augmented(arguments)
        return 0
    written: list[Path] = []

    def tell(folder: Path, counts: Mapping[str, int]) -> None:
        written.append(folder)
        _tell(folder, counts)

    source = _source(arguments)
    for part, table in source.files.items():
        print(f"{part.replace('_', '-')}: {table.path}", flush=True)
        if table.layout.format == QUOTED_TSV:
            note(f"{table.path} is read with CSV quoting, as written by pandas")
    draw = _draw(arguments, source)
    prepare_samples(source, arguments.encoder, arguments.to, draw, tell, checks)
    for table in source.files.values():
        for reason, count in table.left_out.items():
            print(f"skipped: {count} rows {reason} of {table.path}")
    _print_flags(written[0])
    return 0


def _prepare_augmented(arguments: argparse.Namespace) -> None:
    sample, augmented, target = arguments.sample, arguments.augmented, arguments.to
    todo = [(sample, augmented, target)]
    if augmented.is_dir():
        files = files_in(augmented, "*-bt*.jsonl")
        todo = [
            (sample / f.stem.rpartition("-bt")[0], f, target / f.stem) for f in files
        ]
    if not todo:
        raise InputError(f"--augmented {augmented} has no file NAME-bt….jsonl")
    encoder, views = arguments.encoder, arguments.views
    inputs = [path for one, file, _ in todo for path in (one, file)]
    paths = [to for _, _, to in todo]
    with folders_then_rename(paths, DATA, [encoder, *inputs]) as places:
        counts = [
            add_outputs(one, file, encoder, new, views, arguments.max_unknown)
            for (one, file, _), new in zip(todo, places, strict=True)
        ]
    for to, found in zip(paths, counts, strict=True):
        _tell(to, found)
    _print_flags(paths[0])


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.task is not None:
        return Source.of_task(find_task(arguments.task), arguments.folder)
    table, held_out = (
        path and own_table(path, arguments.columns, drop_empty=arguments.drop_empty)
        for path in (arguments.table, arguments.held_out)
    )
    return Source(arguments.table.name, table, held_out)


def _draw(arguments: argparse.Namespace, source: Source) -> Draw:
    usual = source.task is not None and source.task.balanced
    names = ("samples", "seed", "size_valid", "size_test")
    return Draw(
        few_shot=tuple(arguments.few_shot or ()),
        full=arguments.full or not arguments.few_shot,
        balanced=arguments.balanced or usual,
        partial=arguments.partial,
        flipped=tuple(arguments.flip_labels or (0.0,)),
        **{name: getattr(arguments, name) for name in names if _given(arguments, name)},
    )


def _refuse_strangers(arguments: argparse.Namespace) -> None:
    """Check that the options fit the kind of source and that none is missing."""
    kinds = ("text", "task", "table", "sample")
    kind = next(k for k in kinds if getattr(arguments, k) is not None)
    for fitting, names in GOES_WITH.items():
        others = " or ".join(f"--{other}" for other in fitting)
        why = ", whose splits are fixed" if fitting == ("task", "table") else ""
        for name in names:
            flag = "--from" if name == "folder" else f"--{name.replace('_', '-')}"
            if kind not in fitting and _given(arguments, name):
                raise InputError(f"{flag} needs {others}, not --{kind}{why}")
            if name == NEEDS.get(kind) and not _given(arguments, name):
                raise InputError(
                    f"--{kind} needs {flag}: see 'fairseq-scl prepare --help'"
                )
    for name in ("samples", "balanced"):
        if not arguments.few_shot and _given(arguments, name):
            raise InputError(f"--{name} needs --few-shot, the sizes of the samples")


def _given(arguments: argparse.Namespace, name: str) -> bool:
    """Return whether an option without a default is on the command line."""
    value = getattr(arguments, name)
    return value is not None and value is not False


def _tell(folder: Path, counts: Mapping[str, int]) -> None:
    """Print the examples and unknown tokens of each split of a data folder."""
    splits = [split for split in SPLITS if split in counts]
    print(f"wrote {folder}: {', '.join(f'{counts[s]} {s}' for s in splits)}")
    unknown = read_as(folder / MANIFEST, Manifest).unknown
    shares = [f"{share_unknown(unknown[s]):.2%} {s}" for s in splits]
    print(f"unknown tokens: {', '.join(shares)}", flush=True)
    for split in splits:
        if count := unknown[split]["sentences"]:
            note(f"{split} of {folder} has {count} sentences without any known token")


def _print_flags(folder: Path) -> None:
    names = enumerate(read_labels(folder))
    print("classes: " + ", ".join(f"{number} = {name}" for number, name in names))
    print("flags for fairseq-train: " + shlex.join(fairseq_flags(folder)))
