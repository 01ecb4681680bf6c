"""Turn labeled sentences into a data folder for ``fairseq-train``."""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from fairseq.data import Dictionary, indexed_dataset
from msgspec import Meta

from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.folders import DATA, MANIFEST, folder_then_rename, verify
from fairseq_scl.data.folders import manifest as folder_manifest
from fairseq_scl.data.texts import (
    Example,
    check_known_labels,
    class_names,
    one_line,
    read_split,
)
from fairseq_scl.data.tokenizers import Tokenizer, load_tokenizer
from fairseq_scl.data.unknown import MAX_UNKNOWN, check_unknown, count_unknown
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import Manifest, tokenizer_files, tokens_wanted
from fairseq_scl.rows import VIEWS, load_dictionary, open_rows
from fairseq_scl.typed import Name, read_as

LABEL_MAP = "label_map.json"
DRAW = "draw.json"
TEXT = "text"
EXAMPLES_AT_ONCE = 1024


class _LabelMap(msgspec.Struct, forbid_unknown_fields=True):
    labels: Annotated[list[Name], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels is {self.labels}, each must occur once")


def binarize(
    splits: Mapping[str, Iterable[Example]],
    encoder: str | Path,
    target: str | Path,
    labels: Sequence[str] | None = None,
    linked: Mapping[str, Path] | None = None,
    draw: Callable[[], object] | None = None,
    max_unknown: float = MAX_UNKNOWN,
    inputs: Iterable[str | Path] = (),
    views: Sequence[Sequence[Example]] = (),
) -> dict[str, int]:
    """Write a data folder, the first argument of ``fairseq-train``.

    It has ``input0/``, ``input1/`` (for pairs) and ``label/`` in fairseq's binary
    format with the encoder's dictionary, the same examples as text in ``text/``, the
    tokenizer's files, ``label_map.json`` (class id to label) and ``manifest.json``
    (counts, checksums, how a pair is joined). Class ids follow the sorted label names,
    independent of their frequencies.

    Args:
        splits: ``train`` and optionally ``valid`` and ``test``, not empty. Each is
            iterated more than once, in blocks.
        encoder: an encoder folder (``dict.txt`` and tokenizer files).
        target: the folder to write. An existing data folder there is replaced once the
            new one is complete.
        labels: the labels in the order of their class ids. By default those of
            ``train``, at the cost of one more pass over it.
        linked: splits to share with another data folder of the same encoder and labels
            (hard links where the disk supports them, otherwise copies).
        draw: called after all splits are read; the result is written to ``draw.json``,
            which records the origin of the examples.
        max_unknown: the largest share of unknown tokens that a split may have.
        inputs: folders and files of the splits; ``target`` must not overlap with them.
        views: two augmented versions of the training examples, for ``--scl-views``;
            they become ``view0/`` and ``view1/``.

    Returns:
        the number of examples in each split.

    Raises:
        InputError: a label does not occur in the training set, splits differ in their
            columns, the encoder folder is incomplete, a linked folder was prepared with
            another encoder, there are more unknown tokens than allowed, the target is
            not a data folder, or the disk is full.
    """
    if labels is None:
        labels = class_names(example.label for example in splits["train"])
    widths: dict[str, int] = {}
    for split, examples in splits.items():
        if (first := next(iter(examples), None)) is None:
            raise InputError(f"{split} has no example")
        widths[split] = len(first.sentences)
    width = widths["train"]
    for split, found_width in widths.items():
        if found_width != width:
            raise InputError(
                f"{split} has {found_width} sentences per example, but train has "
                f"{width}: provide input1 for all splits or for none"
            )
    tokenizer = load_tokenizer(encoder)
    dictionary = load_dictionary(Path(encoder, "dict.txt"))
    with folder_then_rename(target, DATA, [encoder, *inputs]) as folder:
        for number in range(width):
            (folder / f"input{number}").mkdir()
            shutil.copyfile(
                Path(encoder, "dict.txt"), folder / f"input{number}" / "dict.txt"
            )
        (folder / "label").mkdir()
        (folder / TEXT).mkdir()
        classes, unknown = {}, {}
        for split, examples in splits.items():
            arguments = (folder, split, examples, labels, tokenizer, dictionary)
            classes[split], unknown[split] = _write_split(*arguments)
        with write_then_rename(folder / "label" / "dict.txt") as file:
            file.writelines(f"{name} {classes['train'][name]}\n" for name in labels)
        sizes = {split: counts.total() for split, counts in classes.items()}
        for split, source in (linked or {}).items():
            _link_split(source, folder, split)
            listed = read_as(source / MANIFEST, Manifest)
            sizes[split], unknown[split] = listed.examples[split], listed.unknown[split]
        for name, view in zip(VIEWS, views, strict=False):
            for number in range(width):
                path = folder / name / f"input{number}"
                path.mkdir(parents=True)
                texts = [example.sentences[number] for example in view]
                rows = encoded(texts, tokenizer, dictionary)
                write_rows(path / "train", rows, len(dictionary))
        tokenizer.save(folder)
        write_json(folder / LABEL_MAP, {"labels": list(labels)})
        if draw is not None:
            write_json(folder / DRAW, draw())
        pair = width == 2
        found = {
            **folder_manifest(folder, DATA),
            "examples": sizes,
            "pair": pair,
            "pair_separator": pair and tokenizer.pair_separator,
            "unknown": unknown,
        }
        for source in set((linked or {}).values()):
            _check_same_encoder(source, found["sha256"], encoder)
        check_unknown(found["unknown"], encoder, max_unknown)
        write_json(folder / MANIFEST, found)
    return sizes


def read_labels(folder: str | Path) -> list[str]:
    """Return the labels of a data or model folder in the order of their class ids.

    Raises:
        InputError: the folder has no ``label_map.json``, or it is damaged.
    """
    return read_as(Path(folder, LABEL_MAP), _LabelMap).labels


def read_split_labels(folder: str | Path, split: str) -> list[str]:
    """Return the label of each example in a split of a data folder.

    Raises:
        InputError: the folder lacks ``label_map.json`` or the split, or an example has
            an id that belongs to no label.
    """
    names, found = read_labels(folder), []
    rows = rows_of(Path(folder), "label", split)
    first_class = Dictionary().nspecial
    for number in range(len(rows)):
        label = int(rows[number][0])
        if not first_class <= label < first_class + len(names):
            raise InputError(
                f"{Path(folder, 'label', split)}.bin: example {number + 1} has the id "
                f"{label}, allowed are {first_class} to {first_class + len(names) - 1} "
                f"for the {len(names)} labels of {LABEL_MAP}"
            )
        found.append(names[label - first_class])
    return found


def read_examples(folder: str | Path, split: str) -> list[Example]:
    """Read the text of a split, which a data folder stores next to its ids.

    Raises:
        InputError: there is no data folder, it was changed after it was written, or it
            has no text because an earlier version wrote it.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"there is no data folder {folder}: create it with 'fairseq-scl prepare'"
        )
    if not (folder / TEXT).is_dir():
        raise InputError(
            f"{folder} lacks {TEXT}/, the text of its examples, since an earlier "
            "version wrote it: prepare it again with 'fairseq-scl prepare'"
        )
    verify(folder)
    return read_split(folder / TEXT, split)


def class_counts(folder: str | Path, split: str) -> dict[str, int]:
    """Count the examples of each class in a split of a data folder.

    Raises:
        InputError: as :func:`read_split_labels`.
    """
    counts = Counter(read_split_labels(folder, split))
    return {name: counts[name] for name in read_labels(folder)}


def fairseq_flags(folder: str | Path) -> list[str]:
    """Return the flags of ``fairseq-train`` that a data folder requires.

    These are the number of classes, ``<s>`` before the first sentence and, if the
    encoder expects it, an additional ``</s>`` before the second.
    """
    flags = ["--num-classes", str(len(read_labels(folder)))]
    for name, token in tokens_wanted(read_as(Path(folder, MANIFEST), Manifest)).items():
        if token is not None:
            flags += [f"--{name.replace('_', '-')}", str(token)]
    return flags


def _write_split(
    folder: Path,
    split: str,
    examples: Iterable[Example],
    labels: Sequence[str],
    tokenizer: Tokenizer,
    dictionary: Dictionary,
) -> tuple[Counter[str], dict[str, int]]:
    """Write one split, holding one block of examples in memory at a time.

    Returns:
        the number of examples of each class, and the counts of
        :func:`~unknown.count_unknown`.
    """
    inputs = sorted(folder.glob("input?"))
    builders = [_builder(part / split, len(dictionary)) for part in inputs]
    first_class = Dictionary().nspecial
    label_builder = _builder(folder / "label" / split, first_class + len(labels))
    ids = {label: first_class + number for number, label in enumerate(labels)}
    counts: Counter[str] = Counter()
    unknown = dict.fromkeys(("tokens", "unknown", "sentences"), 0)
    stream = iter(examples)
    with ExitStack() as stack:
        *files, label_file = (
            stack.enter_context(
                write_then_rename(folder / TEXT / f"{split}.{part.name}")
            )
            for part in [*inputs, folder / "label"]
        )
        while block := list(itertools.islice(stream, EXAMPLES_AT_ONCE)):
            check_known_labels(block, labels)
            for number, (builder, file) in enumerate(zip(builders, files, strict=True)):
                texts = [one_line(example.sentences[number]) for example in block]
                file.writelines(f"{text}\n" for text in texts)
                for row in encoded(texts, tokenizer, dictionary):
                    builder.add_item(row)
                    count_unknown(unknown, row)
            for example in block:
                label = [ids[example.label], dictionary.eos()]
                label_builder.add_item(torch.IntTensor(label))
                label_file.write(f"{example.label}\n")
            counts.update(example.label for example in block)
    for builder, part in zip(
        [*builders, label_builder], [*inputs, folder / "label"], strict=True
    ):
        builder.finalize(f"{part / split}.idx")
    return counts, unknown


def encoded(
    texts: Sequence[str], tokenizer: Tokenizer, dictionary: Dictionary
) -> list[torch.Tensor]:
    """Return the ids of each text, ``(T,)`` int32, with ``</s>`` at the end.

    Data preparation and prediction both use this function, so that they treat
    whitespace alike: it is stripped at both ends, and each run becomes one space.
    """
    symbols_of_each = tokenizer.encode_lines([one_line(text) for text in texts])
    rows = ([dictionary.index(s) for s in symbols] for symbols in symbols_of_each)
    return [torch.IntTensor([*row, dictionary.eos()]) for row in rows]


def rows_of(folder: Path, part: str, split: str) -> Any:
    """Open one part of a split in a data folder: ids by number, ``(T,)`` int32.

    Raises:
        InputError: the split does not exist, has ids that its dictionary lacks, or its
            name is a path.
    """
    path = folder / part / split
    if path.name != split:
        raise InputError(f"{split!r} is not the name of a split, such as train or test")
    if not path.with_name(f"{split}.idx").is_file():
        raise InputError(f"{folder} has no {split} split: missing file: {path}.idx")
    dictionary = path.with_name("dict.txt")  # missing for views
    symbols = len(load_dictionary(dictionary)) if dictionary.is_file() else None
    return open_rows(path, symbols)


def write_rows(path: Path, rows: Iterable[torch.Tensor], vocabulary: int) -> None:
    """Write the ids of each example, ``(T,)`` int32, to ``path.bin`` and ``.idx``."""
    builder = _builder(path, vocabulary)
    for row in rows:
        builder.add_item(row)
    builder.finalize(f"{path}.idx")


def _builder(path: Path, vocabulary: int) -> Any:
    return indexed_dataset.make_builder(
        f"{path}.bin", impl="mmap", vocab_size=vocabulary
    )


def _link_split(source: Path, folder: Path, split: str) -> None:
    """Share the files of a split with another data folder."""
    files = []
    for part in [*source.glob("input?"), source / "label"]:
        files += [f"{part.name}/{split}.bin", f"{part.name}/{split}.idx"]
        files.append(f"{TEXT}/{split}.{part.name}")
    for name in files:
        try:
            os.link(source / name, folder / name)
        except OSError:  # different disks, or no support for hard links
            shutil.copyfile(source / name, folder / name)


def _check_same_encoder(
    source: Path, checksums: Mapping[str, str], encoder: str | Path
) -> None:
    """Refuse to share the splits of a folder with another vocabulary or tokenizer."""
    listed, name = read_as(source / MANIFEST, Manifest), "input0/dict.txt"
    wanted = {**tokenizer_files(listed), name: listed.sha256[name]}
    if any(checksums.get(file) != found for file, found in wanted.items()):
        raise InputError(
            f"{source} was prepared with another vocabulary than that of {encoder}: "
            "pass the encoder it was prepared with as --encoder"
        )
