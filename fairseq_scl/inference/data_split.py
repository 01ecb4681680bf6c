"""Read the examples of a data folder for a model, and compute their features."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairseq_scl.data.binarize import rows_of
from fairseq_scl.data.files import sha256
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import LoadedModel
from fairseq_scl.inference.predict import check_pair, features, joined
from fairseq_scl.input_format import MANIFEST, Manifest
from fairseq_scl.typed import read_as


def check_vocabulary(data: Path, folder: Path) -> None:
    """Refuse an encoder or model folder with another vocabulary than the data.

    Raises:
        InputError: names both folders.
    """
    dictionary = folder / "dict.txt"
    if not dictionary.is_file():
        dictionary = folder / "input0" / "dict.txt"
    if sha256(data / "input0" / "dict.txt") != sha256(dictionary):
        raise InputError(
            f"{data} was prepared with another vocabulary than that of {folder}: use a "
            "data folder prepared with the model's encoder"
        )


def read_split_tokens(data: Path, split: str, classifier: LoadedModel) -> list[Tensor]:
    """Return ``(T,)`` int64 token ids of each example, joined and cut as in training.

    Raises:
        InputError: the split does not exist, or only one of data and model has pairs.
    """
    check_pair(classifier, read_as(data / MANIFEST, Manifest).pair, data)
    datasets = [
        rows_of(data, part, split)
        for part in ("input0", "input1")[: 1 + classifier.pair]
    ]
    columns = [[rows[number] for number in range(len(rows))] for rows in datasets]
    return joined(classifier, columns)[0]


def split_features(
    classifier: LoadedModel,
    data: Path,
    split: str,
    folder: Path,
    kind: str | None = None,
) -> NDArray[np.float32]:
    """Compute the features of a split, ``(N, D)`` float32.

    ``kind`` is as in :func:`~fairseq_scl.inference.predict.features`.

    Raises:
        InputError: as :func:`read_split_tokens`, or the features are not finite.
    """
    tokens = read_split_tokens(data, split, classifier)
    found = features(classifier, tokens, kind).numpy()
    if not np.isfinite(found).all():
        raise InputError(f"{folder} computes features that are not finite")
    return found
