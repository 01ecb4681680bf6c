"""Charts of one cell as SVG text, for a page that is light or dark."""

import io
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fairseq_scl.experiments.results import Attempt, CellResult, LossResult
from fairseq_scl.report.figures import COLOURS

# Stands for the colour of text in the page, and is replaced by it.
TEXT = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fairseq-scl",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": TEXT,
    "grid.alpha": 0.15,
    "axes.axisbelow": True,
}
CURVES = {
    "accuracy": "validation accuracy (%)",
    "ce_loss": "validation CE (nats)",
    "scl_loss": "validation SCL (nats per anchor)",
}
# Light enough everywhere for dark digits.
HEAT = LinearSegmentedColormap.from_list("heat", ["#f7e3c5", "#8fc7b5", "#4f9fc4"])


def paired_dots(cell: CellResult) -> str:
    """Draw the test accuracy of each run, with a line between those of one sample.

    Filled dots are the runs that the paper's rule reports; the short line is the mean.
    """
    with mpl.rc_context(STYLE):
        many = len(cell.losses) > 3
        figure, axes = _figure(width=5.5) if many else _figure()
        places: dict[int, list[tuple[int, float]]] = {}
        for place, (colour, one) in enumerate(
            zip(_colours(len(cell.losses)), cell.losses.values(), strict=True)
        ):
            runs = one.selection.chosen.runs if one.selection.chosen else ()
            for run in runs:
                places.setdefault(run.seed, []).append((place, run.test.accuracy))
                filled = run in one.selection.reported
                face = colour if filled else "none"
                axes.plot(
                    place,
                    run.test.accuracy,
                    marker="o",
                    markersize=6,
                    markerfacecolor=face,
                    markeredgecolor=colour,
                    zorder=3,
                )
            if runs:
                mean = fmean(run.test.accuracy for run in runs)
                axes.hlines(mean, place - 0.2, place + 0.2, color=colour, linewidth=2)
        for points in places.values():
            axes.plot(*zip(*points, strict=True), color=TEXT, alpha=0.35, linewidth=0.8)
        axes.set_xticks(range(len(cell.losses)), list(cell.losses))
        if many:
            axes.tick_params(axis="x", labelrotation=30)
        axes.set(xlim=(-0.5, len(cell.losses) - 0.5), ylabel="test accuracy (%)")
        axes.grid(axis="y")
        return _svg(figure, f"test accuracy of each run, {cell.task}")


def curves(cell: CellResult, key: str) -> str:
    """Draw one line a run and a thick one for their mean, for each loss.

    Args:
        cell: whose chosen combinations are drawn.
        key: ``accuracy``, ``ce_loss`` or ``scl_loss``; the last with its floor where
            that was written down.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure()
        for colour, one in zip(
            _colours(len(cell.losses)), cell.losses.values(), strict=True
        ):
            lines = [
                {
                    v.update: getattr(v, key)
                    for v in attempt.record.valid
                    if getattr(v, key) is not None
                }
                for attempt in one.chosen_attempts
                if attempt.record
            ]
            _draw_lines(axes, lines, colour, _label(one, key))
            if key == "scl_loss":
                _draw_floor(axes, one.chosen_attempts, colour)
        axes.set(xlabel="updates", ylabel=CURVES[key])
        axes.grid()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        return _svg(figure, f"{CURVES[key]} over updates, {cell.task}")


def heat_map(one: LossResult) -> str | None:
    """Draw mean validation accuracy over λ and τ, and of how many runs it is.

    Returns:
        ``None`` unless the loss has both and more than one combination.
    """
    candidates = one.selection.candidates
    if one.names != ("scl_lambda", "scl_temperature") or len(candidates) < 2:
        return None
    rows, columns = (
        sorted({c.hyperparameters[i] for c in candidates}) for i in range(2)
    )
    found = {
        (rows.index(c.hyperparameters[0]), columns.index(c.hyperparameters[1])): c
        for c in candidates
    }
    means = {
        place: fmean(run.valid.accuracy for run in candidate.runs)
        for place, candidate in found.items()
        if candidate.runs
    }
    with mpl.rc_context(STYLE):
        height = 0.9 + 0.38 * len(rows)
        figure, axes = _figure(height=max(2.8, height))
        low, high = min(means.values(), default=0), max(means.values(), default=0)
        for (row, column), candidate in found.items():
            mean = means.get((row, column))
            _draw_square(axes, (column, row), mean, len(candidate.runs), (low, high))
            if candidate is one.selection.chosen:
                corner = (column - 0.47, row - 0.47)
                outline = Rectangle(
                    corner, 0.94, 0.94, fill=False, edgecolor=COLOURS[0], linewidth=2.5
                )
                axes.add_patch(outline)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set(xlabel="τ", ylabel="λ")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure, f"mean validation accuracy of {one.loss} over λ and τ")


def _figure(width: float = 3.7, height: float = 2.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _draw_lines(
    axes: Axes, lines: Sequence[Mapping[int, float]], colour: str, label: str
) -> None:
    for line in lines:
        marker = "." if len(line) == 1 else None
        axes.plot(
            list(line), list(line.values()), color=colour, alpha=0.3, linewidth=0.8,
            marker=marker,
        )  # fmt: skip
    shared = sorted(set.intersection(*(set(line) for line in lines))) if lines else []
    if shared:
        mean = [fmean(line[update] for line in lines) for update in shared]
        axes.plot(shared, mean, color=colour, marker="o", markersize=3.5, label=label)


def _draw_floor(axes: Axes, attempts: Sequence[Attempt], colour: str) -> None:
    floors = [floor for attempt in attempts for _, floor in attempt.floors]
    if floors:
        axes.axhline(
            fmean(floors), color=colour, linestyle="--", linewidth=1, label="its floor"
        )


def _label(one: LossResult, key: str) -> str:
    """Name the loss; its τ too where curves of unlike τ are not to be compared."""
    records = [a.record for a in one.chosen_attempts if a.record]
    tau = records[0].settings.get("scl_temperature") if records else None
    return (
        one.loss if key != "scl_loss" or tau is None else f"{one.loss}, at τ = {tau:g}"
    )


def _draw_square(
    axes: Axes,
    place: tuple[int, int],
    mean: float | None,
    count: int,
    span: tuple[float, float],
) -> None:
    x, y = place
    if mean is None:
        axes.text(x, y, "–", ha="center", va="center", alpha=0.6)
        return
    low, high = span
    share = (mean - low) / (high - low) if high > low else 0.5
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=HEAT(share), linewidth=0))
    axes.text(
        x, y, f"{mean:.1f} ({count})", ha="center", va="center", color="#111111",
        fontsize=8,
    )  # fmt: skip


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an ``svg`` element that fits the width it is given."""
    file = io.StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return text.replace(TEXT, "currentColor").strip()


def with_prefix(svg: str, prefix: str) -> str:
    """Make the ids of an ``svg`` element unlike those of another on the same page."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}", svg)
