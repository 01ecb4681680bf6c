"""Figures 2 and 3: what models make of one test set, read from a data folder."""

from collections.abc import Mapping
from pathlib import Path

from fairseq_scl.data.binarise import read_split_labels
from fairseq_scl.data.files import sha256, write_json
from fairseq_scl.data.folders import MANIFEST, list_files
from fairseq_scl.errors import InputError
from fairseq_scl.inference.data_split import check_vocabulary, split_features
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.report.figures import tsne_grid


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
        check_vocabulary(data, folder)
        matrices[place] = split_features(classifier, data, split, folder)
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
