"""Pictures: learning curves, and t-SNE of the features that are contrasted."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from fairseq_scl.data.files import write_then_rename
from fairseq_scl.experiments.records import Record

COLOURS = ("#c44e52", "#4c72b0", "#55a868", "#8172b2", "#ccb974", "#64b5cd")


def learning_curves(records: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Draw accuracy, CE and SCL in validation against updates, and their means.

    Args:
        records: of each loss.
        path: of the PNG file to write.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (
        ("validation accuracy (%)", "accuracy"),
        ("validation CE (nats)", "ce_loss"),
        ("validation SCL (nats per anchor)", "scl_loss"),
    )
    for axes, (title, key) in zip(figure.subplots(1, 3), panels, strict=True):
        for colour, (loss, of_loss) in zip(COLOURS, records.items(), strict=False):
            curves = [record.valid for record in of_loss]
            lines = [[getattr(v, key) for v in curve] for curve in curves]
            updates = [v.update for v in curves[0]]
            for line in lines:
                axes.plot(updates, line, color=colour, alpha=0.3, linewidth=1)
            mean = np.mean(lines, axis=0)
            axes.plot(updates, mean, color=colour, marker="o", label=f"{loss}, mean")
        axes.set(title=title, xlabel="updates")
        axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def tsne_grid(
    features: Mapping[tuple[str, str], NDArray[np.float32]],
    labels: Sequence[str],
    paths: Sequence[Path],
    seed: int = 0,
    perplexity: float = 30.0,
    split: str = "test",
) -> dict[tuple[str, str], float]:
    """Draw t-SNE embeddings of one test set: a row a size, a column a model.

    As Figures 2 and 3 of Gunel et al. (2021), but with the silhouette score of the
    features themselves (cosine distance, -1 to 1) above each picture, since t-SNE shows
    clusters also where there are none.

    Args:
        features: ``(N, D)`` float32 by row and column, in the same order of examples.
        labels: the true label of each example, at least two different ones.
        paths: of the files to write, PNG or PDF.
        seed: of t-SNE.
        perplexity: of t-SNE; lowered where N is small.
        split: what the examples are, for the caption.

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
            colour = COLOURS[number % len(COLOURS)]
            axes.scatter(*chosen.T, s=9, color=colour, label=label, alpha=0.7)
        title = ", ".join(filter(None, (row, column)))
        axes.set(title=f"{title}, silhouette {score:.2f}", xticks=[], yticks=[])
    axes.legend()
    figure.supxlabel(
        f"t-SNE of the {split} features at <s> (perplexity {near:.0f}, seed {seed})",
        fontsize=9,
    )
    for path in paths:
        save_figure(figure, path)
    return scores


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure is the same bytes, whenever it is written."""
    picture = io.BytesIO()
    if path.suffix == ".pdf":
        undated = {"CreationDate": None, "Creator": None, "Producer": None}
        FigureCanvasPdf(figure).print_pdf(picture, metadata=undated)
    else:
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": ""})
    with write_then_rename(path, "wb") as file:
        file.write(picture.getvalue())
