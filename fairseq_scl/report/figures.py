"""Figures: learning curves, and t-SNE of the features of the contrastive loss."""

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from fairseq_scl.data.binarize import read_split_labels
from fairseq_scl.data.files import sha256, write_json, write_then_rename
from fairseq_scl.data.folders import MANIFEST, list_files
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import encoder_pooling
from fairseq_scl.experiments.records import Record
from fairseq_scl.inference.data_split import check_vocabulary, split_features
from fairseq_scl.inference.model_folder import load_classifier

COLORS = ("#c44e52", "#4c72b0", "#55a868", "#8172b2", "#ccb974", "#64b5cd")
CURVES = {
    "accuracy": "validation accuracy (%)",
    "ce_loss": "validation CE (nats)",
    "scl_loss": "validation SCL (nats per anchor)",
}


def learning_curves(records: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Draw validation accuracy, CE and SCL against updates, per run and their means."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 3), CURVES.items(), strict=True):
        for number, (loss, of_loss) in enumerate(records.items()):
            draw_lines(axes, validation_lines(of_loss, key), number, f"{loss}, mean")
        axes.set(title=title, xlabel="updates")
        axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def validation_lines(records: Iterable[Record], key: str) -> list[dict[int, float]]:
    """Return a measure by update for each run, without validations that lack it."""
    return [
        {v.update: value for v in one.valid if (value := getattr(v, key)) is not None}
        for one in records
    ]


def draw_lines(
    axes: Axes, lines: Sequence[Mapping[int, float]], number: int, label: str
) -> None:
    """Draw one thin line per run and a thick one for their mean.

    ``lines`` are values by update; the ``number`` of the loss determines the color.
    """
    color = COLORS[number % len(COLORS)]
    for line in lines:
        marker = "." if len(line) == 1 else None
        axes.plot(
            list(line), list(line.values()), color=color, alpha=0.3, linewidth=0.8,
            marker=marker,
        )  # fmt: skip
    shared = sorted(set.intersection(*(set(line) for line in lines))) if lines else []
    if shared:
        mean = [fmean(line[update] for line in lines) for update in shared]
        axes.plot(shared, mean, color=color, marker="o", markersize=3.5, label=label)


def draw_features(
    data: Path,
    models: Mapping[tuple[str, str], Path],
    split: str,
    path: Path,
    device: str = "cpu",
    seed: int = 0,
    perplexity: float = 30.0,
) -> dict[tuple[str, str], float]:
    """Draw t-SNE of the features that the head of each model reads, one panel each.

    Writes ``path`` (PNG), a PDF, and the silhouette scores as JSON. The model folders
    are given by the row and column of their panel; see :func:`tsne_grid`.

    Returns:
        the silhouette score of each model, in the order of ``models``.

    Raises:
        InputError: a folder is of the wrong kind, data and model have different
            vocabularies, or there are fewer than two classes.
    """
    labels = read_split_labels(data, split)
    if not 2 <= len(set(labels)) < len(labels):
        raise InputError(
            f"{data}: {split} has {len(labels)} examples of {len(set(labels))} classes:"
            " the figure needs at least two classes, and more examples than classes"
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
            "features": encoder_pooling(models[row, name]),
        }
        for (row, name), score in scores.items()
    ]
    made = {"schema": 1, "split": split, "examples": len(labels), "panels": panels}
    made |= {"data": sha256(data / MANIFEST), "metric": "cosine"}
    write_json(
        path.with_suffix(".json"), {**made, "seed": seed, "perplexity": perplexity}
    )
    return scores


def tsne_grid(
    features: Mapping[tuple[str, str], NDArray[np.float32]],
    labels: Sequence[str],
    paths: Sequence[Path],
    seed: int = 0,
    perplexity: float = 30.0,
    split: str = "test",
) -> dict[tuple[str, str], float]:
    """Draw t-SNE embeddings of one test set: one row per size, one column per model.

    The layout is that of Figures 2 and 3 of Gunel et al. (2021). The title of each
    panel also has the silhouette score of the features themselves (cosine distance, -1
    to 1), because t-SNE can show clusters that do not exist.

    Args:
        features: ``(N, D)`` float32 by row and column, all of the same examples.
        labels: the true label of each example, at least two distinct ones.
        paths: the files to write, PNG or PDF.
        seed: of t-SNE.
        perplexity: of t-SNE; lowered if N is small.
        split: name of the split, for the caption.

    Returns:
        the silhouette score of each panel.
    """
    rows = list(dict.fromkeys(row for row, _ in features))
    columns = list(dict.fromkeys(column for _, column in features))
    size = (5 * len(columns), 4.8 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    near = min(perplexity, (len(labels) - 1) / 3)
    scores = {}
    for (row, column), matrix in features.items():
        score = float(silhouette_score(matrix, labels, metric="cosine"))
        scores[row, column] = score
        points = TSNE(
            perplexity=near, metric="cosine", init="random", random_state=seed
        ).fit_transform(matrix)
        axes = panels[rows.index(row), columns.index(column)]
        axes.set_axis_on()
        for number, label in enumerate(sorted(set(labels))):
            chosen = points[np.array(labels) == label]
            color = COLORS[number % len(COLORS)]
            axes.scatter(*chosen.T, s=9, color=color, label=label, alpha=0.7)
        title = ", ".join(filter(None, (row, column)))
        axes.set(title=f"{title}, silhouette {score:.2f}", xticks=[], yticks=[])
    axes.legend()
    figure.supxlabel(
        f"t-SNE of the {split} features (perplexity {near:.0f}, seed {seed})",
        fontsize=9,
    )
    for path in paths:
        save_figure(figure, path)
    return scores


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure always gives the same bytes."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # Labels in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        if path.suffix == ".pdf":
            undated = {"CreationDate": None, "Creator": None, "Producer": None}
            FigureCanvasPdf(figure).print_pdf(picture, metadata=undated)
        else:
            FigureCanvasAgg(figure).print_png(picture, metadata={"Software": ""})
    with write_then_rename(path, "wb") as file:
        file.write(picture.getvalue())
