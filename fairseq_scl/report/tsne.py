"""Figures 2 and 3: what models make of one test set, read from a data folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary
from numpy.typing import NDArray
from torch import Tensor

from fairseq_scl.data.binarise import read_labels, rows_of
from fairseq_scl.data.files import sha256, write_json
from fairseq_scl.data.folders import MANIFEST, list_files
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import Classifier, load_classifier
from fairseq_scl.inference.predict import features
from fairseq_scl.input_format import Manifest
from fairseq_scl.report.figures import tsne_grid
from fairseq_scl.typed import read_as


def draw_features(
    data: Path,
    models: Mapping[tuple[str, str], Path],
    split: str,
    path: Path,
    device: str = "cpu",
    seed: int = 0,
    perplexity: float = 30.0,
) -> dict[tuple[str, str], float]:
    """Draw t-SNE of the features at ``<s>``, a panel a model.

    Writes ``path`` (PNG), the same as PDF, and their silhouette scores as JSON.

    Args:
        data: a data folder.
        models: model folders by the row and column of their panel.
        split: of the data folder, as ``test``.
        path: of the PNG file.
        device: where to compute.
        seed: of t-SNE.
        perplexity: of t-SNE; lowered where there are few examples.

    Returns:
        the silhouette score of each model, in the order of ``models``.

    Raises:
        InputError: a folder is not what it should be, data and model are of unlike
            vocabularies, or there are fewer than two classes.
    """
    labels = read_split_labels(data, split)
    if not 2 <= len(set(labels)) < len(labels):
        raise InputError(
            f"{data}: {split} has {len(labels)} examples of {len(set(labels))} classes,"
            " clusters need two classes and more examples"
        )
    matrices = {}
    for place, folder in models.items():
        classifier = load_classifier(folder, device)
        _check_vocabulary(data, folder)
        encoded = read_split_tokens(data, split, classifier)
        matrices[place] = features(classifier, encoded).numpy()
        _check_finite(matrices[place], folder)
        del classifier
    paths = [path, path.with_suffix(".pdf")]
    list_files([*paths, path.with_suffix(".json")])
    scores = tsne_grid(matrices, labels, paths, seed, perplexity, split)
    panels = [
        {
            "row": row,
            "name": name,
            "model": str(models[row, name]),
            "sha256": sha256(models[row, name] / "model.pt"),
            "silhouette": score,
        }
        for (row, name), score in scores.items()
    ]
    made = {"schema": 1, "split": split, "examples": len(labels), "panels": panels}
    made |= {"data": sha256(data / MANIFEST), "features": "cls", "metric": "cosine"}
    write_json(
        path.with_suffix(".json"), {**made, "seed": seed, "perplexity": perplexity}
    )
    return scores


def read_split_labels(data: Path, split: str) -> list[str]:
    """Return the label of each example of a split of a data folder.

    Raises:
        InputError: it is no data folder, or has no such split.
    """
    names = read_labels(data)
    first_class = Dictionary().nspecial
    return [names[int(row[0]) - first_class] for row in _rows(data, "label", split)]


def read_split_tokens(data: Path, split: str, classifier: Classifier) -> list[Tensor]:
    """Return the token ids of each example as the model was trained to read them.

    Args:
        data: a data folder of the classifier's vocabulary.
        split: of it.
        classifier: says how a pair is joined, and how long an input may be.

    Returns:
        a ``(T,)`` int64 tensor for each example.

    Raises:
        InputError: there is no such split, or one has pairs and the other has not.
    """
    if read_as(data / MANIFEST, Manifest).pair != classifier.pair:
        there = "single sentences" if classifier.pair else "pairs"
        raise InputError(f"{data} has {there}, the model was not trained on such")
    starts = (classifier.init_token, classifier.separator_token)
    first, joint = ([] if start is None else [start] for start in starts)
    rows = [row.tolist() for row in _rows(data, "input0", split)]
    if classifier.pair:
        seconds = _rows(data, "input1", split)
        rows = [
            [*one, *joint, *other.tolist()]
            for one, other in zip(rows, seconds, strict=True)
        ]
    longest = classifier.max_positions
    return [torch.tensor([*first, *row][:longest]) for row in rows]


def _rows(data: Path, part: str, split: str) -> list[Tensor]:
    dataset = rows_of(data, part, split)
    return [dataset[number] for number in range(len(dataset))]


def _check_vocabulary(data: Path, folder: Path) -> None:
    if sha256(data / "input0" / "dict.txt") != sha256(folder / "input0" / "dict.txt"):
        raise InputError(
            f"{data} was prepared with another vocabulary than that of {folder}"
        )


def _check_finite(matrix: NDArray[np.float32], folder: Path) -> None:
    if not np.isfinite(matrix).all():
        raise InputError(f"{folder} computes features that are not numbers")
