"""What frozen encoders and models make of a data folder: geometry and linear probes.

The same examples before and after fine-tuning, whatever the objective.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fairseq_scl.data.binarise import read_split_labels
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.geometry import TOP, measures
from fairseq_scl.experiments.probe import Probe, linear_probe
from fairseq_scl.inference.data_split import check_vocabulary, split_features
from fairseq_scl.inference.encoder_folder import is_encoder_folder, load_encoder
from fairseq_scl.inference.model_folder import SETTINGS, Classifier, load_classifier
from fairseq_scl.input_format import Manifest, tokens_wanted
from fairseq_scl.typed import read_as

ENCODER, MODEL = "encoder", "model"


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

    An encoder gets a head that is not used. A model trained on single sentences reads
    pairs as the data folder joins them.

    Raises:
        InputError: a folder is not what it should be, or their vocabularies differ.
    """
    kind = kind_of(folder)
    if not (data / MANIFEST).is_file():
        raise InputError(f"there is no data folder {data}: 'fairseq-scl prepare'")
    check_vocabulary(data, folder)
    manifest = read_as(data / MANIFEST, Manifest)
    separator = tokens_wanted(manifest)["separator_token"]
    load = load_classifier if kind == MODEL else load_encoder
    return replace(load(folder, device), pair=manifest.pair, separator_token=separator)


def measured(
    folder: Path, data: Path, split: str, device: str = "cpu", top: int = TOP
) -> dict[str, float]:
    """Measure the features that one folder gives of a split.

    Raises:
        InputError: see :func:`load_frozen` and
            :func:`~fairseq_scl.experiments.geometry.measures`.
    """
    labels = read_split_labels(data, split)
    found = split_features(load_frozen(folder, data, device), data, split, folder)
    try:
        return measures(found.astype(np.float64), labels, top)
    except InputError as error:
        raise InputError(f"{folder} on {split} of {data}: {error}") from error


def probed(folder: Path, data: Path, device: str = "cpu") -> Probe:
    """Fit a linear probe to the features that one folder gives of a data folder.

    Raises:
        InputError: see :func:`load_frozen`, or the data folder lacks a split.
    """
    classifier = load_frozen(folder, data, device)
    splits = ("train", "valid", "test")
    found = {
        split: split_features(classifier, data, split, folder).astype(np.float64)
        for split in splits
    }
    return linear_probe(found, {s: read_split_labels(data, s) for s in splits})
