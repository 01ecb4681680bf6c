"""Data folders with the back-translations of a sample."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary

from fairseq_scl.data.binarise import (
    DRAW,
    LABEL_MAP,
    encoded,
    link_split,
    load_dictionary,
    manifest,
    read_labels,
    rows_of,
    write_rows,
)
from fairseq_scl.data.files import sha256, write_json, write_then_rename
from fairseq_scl.data.folders import DATA, MANIFEST, folder_then_rename, verify
from fairseq_scl.data.outputs import Output, read_outputs
from fairseq_scl.data.texts import one_line
from fairseq_scl.data.tokenizers import Tokenizer, load_tokenizer
from fairseq_scl.data.unknown import MAX_UNKNOWN, check_unknown
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import Manifest
from fairseq_scl.typed import read_as

VIEWS = ("view0", "view1")


def add_outputs(
    sample: str | Path,
    file: str | Path,
    encoder: str | Path,
    target: str | Path,
    views: bool = False,
    max_unknown: float = MAX_UNKNOWN,
) -> dict[str, int]:
    """Write a data folder with a sample's examples and their back-translations.

    ``train`` has the examples of the sample, token by token, then the outputs; the
    files of ``valid`` and ``test`` are those of the sample. ``draw.json`` is the
    sample's with what was added.

    Args:
        sample: a data folder.
        file: the augmented file that was made of its training set.
        encoder: the encoder folder that the sample was prepared with.
        target: the folder to write.
        views: leave ``train`` as it is, and write the first two outputs of each example
            as ``view0`` and ``view1`` beside ``input0``, for ``--scl-views``.
        max_unknown: the largest share of unknown tokens that a split may have.

    Returns:
        the number of examples of each split.

    Raises:
        InputError: a folder or file that is missing or damaged, a file that was made of
            another sample, a label that the sample has not, an encoder with another
            vocabulary, one output an example where views are wanted.
    """
    sample, target = Path(sample), Path(target)
    if not (sample / MANIFEST).is_file():
        raise InputError(
            f"there is no data folder {sample}: 'fairseq-scl prepare' makes it"
        )
    verify(sample)
    width = len(list(sample.glob("input?")))
    dictionary = _same_dictionary(sample, Path(encoder))
    tokenizer = load_tokenizer(encoder)
    outputs = read_outputs(file)
    _check_made_of(sample, Path(file), outputs, tokenizer, dictionary)
    if views and len(outputs[0]) < len(VIEWS):
        raise InputError(
            f"{file} has one output an example, two views need at least 2: make them "
            "with --copies 2"
        )
    examples = dict(read_as(sample / MANIFEST, Manifest).examples)
    with folder_then_rename(target, DATA, [sample, file, encoder]) as folder:
        for part in [*(f"input{number}" for number in range(width)), "label"]:
            (folder / part).mkdir()
            text = (sample / part / "dict.txt").read_bytes()
            with write_then_rename(folder / part / "dict.txt", "wb") as copy:
                copy.write(text)
        for split in examples:
            if split != "train" or views:
                link_split(sample, folder, split)
        if views:
            _write_views(folder, outputs, tokenizer, dictionary)
        else:
            examples["train"] += sum(map(len, outputs))
            _write_train(sample, folder, outputs, tokenizer, dictionary)
        tokenizer.save(folder)
        write_json(folder / LABEL_MAP, {"labels": read_labels(sample)})
        write_json(folder / DRAW, _draw(sample, Path(file), outputs, views))
        found = manifest(folder, examples, width, tokenizer)
        check_unknown(found["unknown"], encoder, max_unknown)
        write_json(folder / MANIFEST, found)
    return examples


def _same_dictionary(sample: Path, encoder: Path) -> Dictionary:
    dictionary = load_dictionary(encoder / "dict.txt")
    if sha256(encoder / "dict.txt") != sha256(sample / "input0" / "dict.txt"):
        raise InputError(
            f"{sample} was prepared with another vocabulary than {encoder} has: name "
            "its own encoder with --encoder"
        )
    return dictionary


def _check_made_of(
    sample: Path,
    file: Path,
    outputs: Sequence[Sequence[Output]],
    tokenizer: Tokenizer,
    dictionary: Dictionary,
) -> None:
    """Refuse a file whose sources and labels are not the sample's, one by one."""
    labels, classes = read_labels(sample), rows_of(sample, "label", "train")
    width = len(list(sample.glob("input?")))
    if len(outputs) != len(classes) or len(outputs[0][0].sources) != width:
        kinds = {1: "sentences", 2: "pairs"}
        found = kinds[len(outputs[0][0].sources)]
        raise InputError(
            f"{file} is of {len(outputs)} {found}, {sample} has {len(classes)} "
            f"{kinds[width]} in train: it was made of another sample"
        )
    parts = [rows_of(sample, f"input{number}", "train") for number in range(width)]
    for output in (output for group in outputs for output in group):
        if output.label not in labels:
            raise InputError(
                f"{output.place}: the label is {output.label!r}, {sample} has "
                f"{', '.join(labels)}"
            )
        name = labels[int(classes[output.origin][0]) - Dictionary().nspecial]
        rows = encoded(output.sources, tokenizer, dictionary)
        same = all(
            torch.equal(row, part[output.origin].int())
            for row, part in zip(rows, parts, strict=True)
        )
        if output.label != name or not same:
            what = "source" if not same else f"label {output.label!r}"
            raise InputError(
                f"{output.place}: its {what} is not that of example {output.origin} "
                f"(from 0) of {sample}: the file was made of another sample"
            )


def _write_train(
    sample: Path,
    folder: Path,
    outputs: Sequence[Sequence[Output]],
    tokenizer: Tokenizer,
    dictionary: Dictionary,
) -> None:
    every = [output for group in outputs for output in group]
    for number in range(len(every[0].sentences)):
        old = rows_of(sample, f"input{number}", "train")
        new = _sentences(every, number, tokenizer, dictionary)
        rows = _chained(old, new)
        write_rows(folder / f"input{number}" / "train", rows, len(dictionary))
    labels, first_class = read_labels(sample), Dictionary().nspecial
    old = rows_of(sample, "label", "train")
    end = dictionary.eos()
    new = [torch.IntTensor([first_class + labels.index(o.label), end]) for o in every]
    rows = _chained(old, new)
    write_rows(folder / "label" / "train", rows, first_class + len(labels))
    counts = Counter(int(row[0]) - first_class for row in _chained(old, new))
    with write_then_rename(folder / "label" / "dict.txt") as file:
        file.writelines(f"{name} {counts[i]}\n" for i, name in enumerate(labels))


def _write_views(
    folder: Path,
    outputs: Sequence[Sequence[Output]],
    tokenizer: Tokenizer,
    dictionary: Dictionary,
) -> None:
    for copy, view in enumerate(VIEWS):
        chosen = [group[copy] for group in outputs]
        for number in range(len(chosen[0].sentences)):
            path = folder / view / f"input{number}"
            path.mkdir(parents=True)
            rows = _sentences(chosen, number, tokenizer, dictionary)
            write_rows(path / "train", rows, len(dictionary))


def _sentences(
    outputs: Sequence[Output],
    number: int,
    tokenizer: Tokenizer,
    dictionary: Dictionary,
) -> list[torch.Tensor]:
    texts = [one_line(output.sentences[number]) for output in outputs]
    return encoded(texts, tokenizer, dictionary)


def _chained(old: Any, new: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    yield from (old[i] for i in range(len(old)))
    yield from new


def _draw(
    sample: Path, file: Path, outputs: Sequence[Sequence[Output]], views: bool
) -> dict[str, Any]:
    """Return the sample's ``draw.json``, if it has one, with what was added."""
    draw = (
        read_as(sample / DRAW, dict[str, Any])
        if (sample / DRAW).is_file()
        else {"schema": 1}
    )
    every = [output for group in outputs for output in group]
    added = {
        "file": file.name,
        "sha256": sha256(file),
        "sample_manifest_sha256": sha256(sample / MANIFEST),
        "examples": len(outputs),
        "copies": len(outputs[0]),
        "outputs": len(every),
        "unchanged": sum(output.unchanged for output in every),
        "as_views": views,
    }
    made = file.with_suffix(".json")
    if made.is_file():
        # The rest of the record is of the machine, not of the bytes.
        record = read_as(made, dict[str, Any])
        added |= {key: record.get(key) for key in ("settings", "counts")}
    return {**draw, "augmented": added}
