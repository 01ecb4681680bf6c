"""Data folders with the back-translations of a sample."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.data.binarize import DRAW, binarize, read_examples, read_labels
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.data.outputs import BackTranslationRecord, Output, read_outputs
from fairseq_scl.data.texts import Example
from fairseq_scl.data.unknown import MAX_UNKNOWN
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import Manifest
from fairseq_scl.rows import VIEWS
from fairseq_scl.typed import read_as


def add_outputs(
    sample: str | Path,
    file: str | Path,
    encoder: str | Path,
    target: str | Path,
    views: bool = False,
    max_unknown: float = MAX_UNKNOWN,
) -> dict[str, int]:
    """Write a data folder with a sample's examples and their back-translations.

    ``train`` has the examples of the sample, followed by the outputs. ``valid`` and
    ``test`` are shared with the sample. ``draw.json`` extends that of the sample.

    Args:
        sample: a data folder.
        file: the augmented file created from its training set.
        encoder: the encoder folder that the sample was prepared with.
        target: the folder to write.
        views: keep ``train`` unchanged, and write the first two outputs of each example
            as ``view0`` and ``view1`` next to ``input0``, for ``--scl-views``.
        max_unknown: see :func:`~fairseq_scl.data.binarize.binarize`.

    Returns:
        the number of examples in each split.

    Raises:
        InputError: a folder or file is missing or damaged, the sample has no text, the
            file was created from another sample, the encoder has another vocabulary,
            or views need two outputs per example but there is only one.
    """
    sample, file = Path(sample), Path(file)
    examples, outputs = read_examples(sample, "train"), read_outputs(file)
    _check_made_from(sample, examples, file, outputs)
    if views and len(outputs[0]) < len(VIEWS):
        raise InputError(
            f"{file} has one output per example, but two views need at least 2: create "
            "them with --copies 2"
        )
    copies = [[_example(group[n]) for group in outputs] for n in range(len(outputs[0]))]
    new = [] if views else [_example(output) for group in outputs for output in group]
    others = read_as(sample / MANIFEST, Manifest).examples.keys() - {"train"}
    return binarize(
        {"train": [*examples, *new]},
        encoder,
        target,
        labels=read_labels(sample),
        linked=dict.fromkeys(sorted(others), sample),
        draw=lambda: _draw(sample, file, outputs, views),
        max_unknown=max_unknown,
        inputs=[sample, file],
        views=copies[: len(VIEWS)] if views else (),
    )


def _example(output: Output) -> Example:
    return Example(output.sentences, output.label, output.place)


def _check_made_from(
    sample: Path,
    examples: Sequence[Example],
    file: Path,
    outputs: Sequence[Sequence[Output]],
) -> None:
    """Refuse a file with a source or label that differs from the sample's."""
    kinds = {1: "sentences", 2: "pairs"}
    found = f"{len(outputs)} {kinds[len(outputs[0][0].sources)]}"
    wanted = f"{len(examples)} {kinds[len(examples[0].sentences)]}"
    if found != wanted:
        raise InputError(
            f"{file} was made from another sample: it has {found}, but train of "
            f"{sample} has {wanted}"
        )
    for example, group in zip(examples, outputs, strict=True):
        for output in group:
            if (output.sources, output.label) != (example.sentences, example.label):
                same = output.sources == example.sentences
                what = f"label {output.label!r}" if same else "source"
                raise InputError(
                    f"{output.place}: the {what} differs from example {output.origin} "
                    f"(counted from 0) of {sample}: the file was made from another "
                    "sample"
                )


def _draw(
    sample: Path, file: Path, outputs: Sequence[Sequence[Output]], views: bool
) -> dict[str, Any]:
    """Return the sample's ``draw.json``, if any, with a record of the outputs."""
    draw: dict[str, Any] = {"schema": 1}
    if os.path.lexists(sample / DRAW):
        draw = read_as(sample / DRAW, dict[str, Any])
    added = {
        "file": file.name,
        "sha256": sha256(file),
        "sample_manifest_sha256": sha256(sample / MANIFEST),
        "examples": len(outputs),
        "copies": len(outputs[0]),
        "outputs": len(outputs) * len(outputs[0]),
        "unchanged": sum(output.unchanged for group in outputs for output in group),
        "as_views": views,
    }
    if os.path.lexists(file.with_suffix(".json")):
        # The rest of the record describes the machine and does not change the bytes.
        record = read_as(file.with_suffix(".json"), BackTranslationRecord)
        added |= {"settings": record.settings, "counts": record.counts}
    return {**draw, "augmented": added}
