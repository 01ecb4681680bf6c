"""Accuracy against speed of multi-exit models: curves, table and files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from fairseq_scl.data.files import sha256, write_json, write_then_rename
from fairseq_scl.data.folders import MANIFEST, list_files
from fairseq_scl.experiments.records import origin
from fairseq_scl.inference.exit_speed import Point
from fairseq_scl.report.figures import COLORS, save_figure
from fairseq_scl.report.markdown import sheet_as_markdown
from fairseq_scl.report.sheets import Sheet


def write_exits(
    points: Mapping[str, Sequence[Point]],
    data: Path,
    models: Mapping[str, Path],
    path: Path,
    settings: Mapping[str, Any],
) -> str:
    """Write the curves, the table and the numbers.

    Points are from :func:`~fairseq_scl.inference.exit_speed.measure_exits`, with its
    ``settings`` for the JSON file. The PDF, Markdown and JSON files get the name of the
    PNG file ``path``.

    Returns:
        the table as Markdown.
    """
    list_files(path.with_suffix(suffix) for suffix in (".png", ".pdf", ".md", ".json"))
    figure = draw_exits(points, settings["clock"])
    for picture in (path, path.with_suffix(".pdf")):
        save_figure(figure, picture)
    table = sheet_as_markdown(exits_sheet(points))
    with write_then_rename(path.with_suffix(".md")) as file:
        file.write(table + "\n")
    checksums = {name: sha256(folder / "model.pt") for name, folder in models.items()}
    made = {
        "schema": 1,
        **settings,
        "threads": torch.get_num_threads(),
        "models": {
            name: [
                {
                    **asdict(point),
                    "accuracy": point.accuracy,
                    "sentences_per_second": point.sentences_per_second,
                }
                for point in of_model
            ]
            for name, of_model in points.items()
        },
        "origin": origin({"data": sha256(data / MANIFEST), **checksums}),
    }
    write_json(path.with_suffix(".json"), made)
    return table


def draw_exits(points: Mapping[str, Sequence[Point]], clock: str) -> Figure:
    """Draw accuracy against the mean number of layers and against measured speed.

    There is one line per model and one dot per threshold; a ring is the deepest exit.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = (
        ("layers per sentence, mean", "layers"),
        (f"sentences per second, measured ({clock} time)", "sentences_per_second"),
    )
    for axes, (label, key) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, (name, of_model) in enumerate(points.items()):
            color = COLORS[number % len(COLORS)]
            xs = [getattr(point, key) for point in of_model]
            ys = [point.accuracy for point in of_model]
            style = {"color": color, "marker": "o"}
            axes.plot(xs[:-1], ys[:-1], **style, markersize=4, label=name)
            axes.plot(xs[-1:], ys[-1:], **style, markersize=9, fillstyle="none")
        axes.set(xlabel=label, ylabel="accuracy (%)")
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def exits_sheet(points: Mapping[str, Sequence[Point]]) -> Sheet:
    """Return a sheet of the points of all models, one row per threshold."""
    rows = []
    for name, of_model in points.items():
        deepest = of_model[-1]
        for point in of_model:
            at = "deepest exit" if point.threshold is None else f"{point.threshold:g}"
            rows.append(
                (
                    name,
                    at,
                    f"{point.accuracy:.1f}",
                    f"{point.layers:.2f}",
                    f"{point.sentences_per_second:.0f}",
                    f"{deepest.seconds / point.seconds:.2f}",
                    ", ".join(f"{layer}: {n}" for layer, n in point.left.items() if n),
                )
            )
    return Sheet(
        name="exits",
        title="Accuracy and speed at each threshold",
        header=(
            *("model", "threshold", "accuracy", "layers", "sentences/s"),
            *("speed-up", "left after"),
        ),
        rows=tuple(rows),
    )
