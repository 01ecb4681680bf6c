"""What encoders and models make of a data folder: shape of the features, linear probes.

The same examples before and after fine-tuning, whatever the objective.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_scl.data.files import sha256, write_json, write_then_rename
from fairseq_scl.data.folders import MANIFEST, list_files
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.geometry import MEASURES, TOP, Matrix, measures
from fairseq_scl.experiments.probe import STRENGTHS, Probe, linear_probe
from fairseq_scl.inference.encoder_folder import is_encoder_folder, load_encoder
from fairseq_scl.inference.model_folder import SETTINGS, Classifier, load_classifier
from fairseq_scl.inference.predict import features
from fairseq_scl.input_format import Manifest, tokens_wanted
from fairseq_scl.report.markdown import sheet_as_markdown
from fairseq_scl.report.representation_sheets import ENCODER, MEASURED, MODEL
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.report.tsne import read_split_labels, read_split_tokens
from fairseq_scl.typed import read_as


def kind_of(folder: Path) -> str:
    """Tell an encoder folder from a model folder.

    Raises:
        InputError: it is neither.
    """
    if (folder / SETTINGS).is_file():
        return MODEL
    if is_encoder_folder(folder):
        return ENCODER
    raise InputError(
        f"{folder} is no encoder folder (model.pt, dict.txt) and no model folder "
        f"({SETTINGS}): 'fairseq-scl convert' and 'fairseq-scl export' make these"
    )


def load_frozen(folder: Path, data: Path, device: str = "cpu") -> Classifier:
    """Load an encoder or model folder to compute features of a data folder.

    An encoder gets a head that is not used. What is trained on single sentences reads
    pairs as the data folder joins them.

    Raises:
        InputError: a folder is not what it should be, or their vocabularies differ.
    """
    kind = kind_of(folder)
    dictionary = folder / ("dict.txt" if kind == ENCODER else "input0/dict.txt")
    if not (data / MANIFEST).is_file():
        raise InputError(f"there is no data folder {data}: 'fairseq-scl prepare'")
    if sha256(data / "input0" / "dict.txt") != sha256(dictionary):
        raise InputError(
            f"{data} was prepared with another vocabulary than that of {folder}"
        )
    manifest = read_as(data / MANIFEST, Manifest)
    separator = tokens_wanted(manifest)["separator_token"]
    load = load_classifier if kind == MODEL else load_encoder
    return replace(load(folder, device), pair=manifest.pair, separator_token=separator)


def split_features(classifier: Classifier, data: Path, split: str) -> Matrix:
    """Compute the features at ``<s>`` of a split, ``(N, D)`` float64."""
    tokens = read_split_tokens(data, split, classifier)
    return features(classifier, tokens).numpy().astype(np.float64)


def measured(
    folder: Path, data: Path, split: str, device: str = "cpu", top: int = TOP
) -> dict[str, float]:
    """Measure the features that one folder gives of a split.

    Raises:
        InputError: see :func:`load_frozen` and
            :func:`~fairseq_scl.experiments.geometry.measures`.
    """
    labels = read_split_labels(data, split)
    found = split_features(load_frozen(folder, data, device), data, split)
    try:
        return measures(found, labels, top)
    except InputError as error:
        raise InputError(f"{folder} on {split} of {data}: {error}") from error


def probed(folder: Path, data: Path, device: str = "cpu") -> Probe:
    """Fit a linear probe to the features that one folder gives of a data folder.

    Raises:
        InputError: see :func:`load_frozen`, or the data folder lacks a split.
    """
    classifier = load_frozen(folder, data, device)
    splits = ("train", "valid", "test")
    found = {split: split_features(classifier, data, split) for split in splits}
    return linear_probe(found, {s: read_split_labels(data, s) for s in splits})


def analysis_sheets(
    split: str,
    found: Mapping[str, Mapping[str, float]],
    probes: Mapping[str, Mapping[str, Probe]],
    top: int = TOP,
) -> list[Sheet]:
    """Lay out measures, a row a model, and the probes, a column a data folder.

    Args:
        split: of which the measures are.
        found: measures by model.
        probes: by data folder and model.
        top: of the singular values.
    """
    rows = [
        (name, *(f"{one[key]:.3g}" for key in MEASURES)) for name, one in found.items()
    ]
    sheets = [
        Sheet(
            name="representations",
            title=f"Representations of the {split} examples",
            header=("model", *MEASURES.values()),
            rows=tuple(rows),
            notes=(MEASURED.format(top=top),),
        )
    ]
    if probes:
        by_model = [
            (name, *(f"{of_data[name].accuracy:.1f}" for of_data in probes.values()))
            for name in found
        ]
        tried = ", ".join(f"{c:g}" for c in STRENGTHS)
        sheets.append(
            Sheet(
                name="probes",
                title="Linear probes of the frozen encoder, test accuracy in percent",
                header=("model", *probes),
                rows=tuple(by_model),
                notes=(
                    "Logistic regression (L2) on the features at <s>, each scaled by "
                    f"the training set; C of {tried} by validation accuracy.",
                ),
            )
        )
    return sheets


def write_analysis(
    path: Path,
    sheets: Sequence[Sheet],
    made: Mapping[str, Any],
    models: Mapping[str, Path],
    found: Mapping[str, Mapping[str, float]],
    probes: Mapping[str, Mapping[str, Probe]],
) -> str:
    """Write the sheets as Markdown and the numbers as JSON beside it.

    Args:
        path: of the Markdown file.
        sheets: from :func:`analysis_sheets`.
        made: what else moves the numbers: split, top, checksum of the data.
        models: folders by name.
        found: measures by model.
        probes: by data folder and model.

    Returns:
        the Markdown.
    """
    list_files([path, path.with_suffix(".json")])
    text = "\n\n".join(map(sheet_as_markdown, sheets))
    with write_then_rename(path) as file:
        file.write(f"{text}\n")
    rows = [
        {
            "name": name,
            "kind": kind_of(folder),
            "folder": str(folder),
            "sha256": sha256(folder / "model.pt"),
            "measures": dict(found[name]),
            "probes": {
                data: {**asdict(of_data[name]), "accuracy": of_data[name].accuracy}
                for data, of_data in probes.items()
            },
        }
        for name, folder in models.items()
    ]
    content = {"schema": 1, "features": "cls", **made, "models": rows}
    write_json(path.with_suffix(".json"), content)
    return text
