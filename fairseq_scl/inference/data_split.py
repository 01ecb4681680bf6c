"""The examples of a data folder as a model reads them, and its features of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairseq_scl.data.binarise import rows_of
from fairseq_scl.data.files import sha256
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import Classifier
from fairseq_scl.inference.predict import features, joined
from fairseq_scl.input_format import MANIFEST, Manifest
from fairseq_scl.typed import read_as


def check_vocabulary(data: Path, folder: Path) -> None:
    """Refuse an encoder or model folder of another vocabulary than the data's.

    Raises:
        InputError: names both folders.
    """
    dictionary = folder / "dict.txt"
    if not dictionary.is_file():
        dictionary = folder / "input0" / "dict.txt"
    if sha256(data / "input0" / "dict.txt") != sha256(dictionary):
        raise InputError(
            f"{data} was prepared with another vocabulary than that of {folder}"
        )


def read_split_tokens(data: Path, split: str, classifier: Classifier) -> list[Tensor]:
    """Return the token ids of each example as the model was trained to read them.

    Args:
        data: a data folder of the classifier's vocabulary.
        split: of it.
        classifier: says how a pair is joined, and how long an input may be.

    Returns:
        a ``(T,)`` int64 tensor for each example.

    Raises:
        InputError: there is no such split, or only one of data and model has pairs.
    """
    if read_as(data / MANIFEST, Manifest).pair != classifier.pair:
        there = "single sentences" if classifier.pair else "pairs"
        raise InputError(f"{data} has {there}, the model was not trained on such")
    datasets = [
        rows_of(data, part, split)
        for part in ("input0", "input1")[: 1 + classifier.pair]
    ]
    columns = [[rows[number] for number in range(len(rows))] for rows in datasets]
    return joined(classifier, columns)[0]


def split_features(
    classifier: Classifier, data: Path, split: str, folder: Path
) -> NDArray[np.float32]:
    """Compute the features at ``<s>`` of a split, ``(N, D)`` float32.

    Args:
        classifier: loaded from ``folder``.
        data: a data folder of its vocabulary.
        split: of it.
        folder: names the model in the message.

    Raises:
        InputError: as :func:`read_split_tokens`, or the features are not finite.
    """
    found = features(classifier, read_split_tokens(data, split, classifier)).numpy()
    if not np.isfinite(found).all():
        raise InputError(f"{folder} computes features that are not numbers")
    return found
