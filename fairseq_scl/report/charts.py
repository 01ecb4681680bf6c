"""Charts of one cell as SVG text, for light and dark pages."""

import html
import io
import re
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fairseq_scl.experiments.results import CellResult, LossResult, TableResult
from fairseq_scl.experiments.variants import FLIPPED
from fairseq_scl.report import layout
from fairseq_scl.report.figures import COLORS, CURVES, draw_lines, validation_lines

# Placeholder that is replaced by the color of the page's text.
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
# Light enough for dark digits everywhere.
HEAT = LinearSegmentedColormap.from_list("heat", ["#f7e3c5", "#8fc7b5", "#4f9fc4"])


def paired_dots(cell: CellResult) -> str:
    """Draw the test accuracy of each run, with lines between runs of the same sample.

    Filled dots are the runs that the paper's rule reports; short lines are means.
    """
    with mpl.rc_context(STYLE):
        many = len(cell.losses) > 3
        figure, axes = _figure(width=5.5) if many else _figure()
        places: dict[int, list[tuple[int, float]]] = {}
        for place, one in enumerate(cell.losses.values()):
            color = COLORS[place % len(COLORS)]
            runs = one.selection.chosen.runs if one.selection.chosen else ()
            for run in runs:
                places.setdefault(run.seed, []).append((place, run.test.accuracy))
                filled = run in one.selection.reported
                face = color if filled else "none"
                axes.plot(
                    place,
                    run.test.accuracy,
                    marker="o",
                    markersize=6,
                    markerfacecolor=face,
                    markeredgecolor=color,
                    zorder=3,
                )
            if runs:
                mean = fmean(run.test.accuracy for run in runs)
                axes.hlines(mean, place - 0.2, place + 0.2, color=color, linewidth=2)
        for points in places.values():
            axes.plot(*zip(*points, strict=True), color=TEXT, alpha=0.35, linewidth=0.8)
        axes.set_xticks(range(len(cell.losses)), list(cell.losses))
        if many:
            axes.tick_params(axis="x", labelrotation=30)
        axes.set(xlim=(-0.5, len(cell.losses) - 0.5), ylabel="test accuracy (%)")
        axes.grid(axis="y")
        return _svg(figure, f"test accuracy of each run, {cell.place['task']}")


def curves(cell: CellResult, key: str) -> str:
    """Draw one line per run and a thick one for their mean, for each loss.

    The runs are those of the chosen combinations, and the measure is a key of
    :data:`CURVES`; ``scl_loss`` is drawn with its floor, if recorded.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure()
        for number, one in enumerate(cell.losses.values()):
            records = [a.record for a in one.chosen_attempts if a.record]
            label = one.loss
            tau = records[0].settings.get("scl_temperature") if records else None
            if key == "scl_loss" and tau is not None:
                label += f", at τ = {tau:g}"  # losses at different τ are not comparable
            draw_lines(axes, validation_lines(records, key), number, label)
            floors = [floor for a in one.chosen_attempts for _, floor in a.floors]
            if key == "scl_loss" and floors:
                color = COLORS[number % len(COLORS)]
                axes.axhline(
                    fmean(floors), color=color, linestyle="--", linewidth=1,
                    label="its floor",
                )  # fmt: skip
        axes.set(xlabel="updates", ylabel=CURVES[key])
        axes.grid()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        return _svg(figure, f"{CURVES[key]} over updates, {cell.place['task']}")


def heat_map(one: LossResult) -> str | None:
    """Draw mean validation accuracy and the number of runs over λ and τ.

    Returns:
        the SVG, ``None`` unless the loss has λ and τ and more than one combination.
    """
    candidates = one.selection.candidates
    if one.names != ("scl_lambda", "scl_temperature") or len(candidates) < 2:
        return None
    rows, columns = (
        sorted({c.hyperparameters[i] for c in candidates}) for i in range(2)
    )
    means = {
        c.hyperparameters: fmean(run.valid.accuracy for run in c.runs)
        for c in candidates
        if c.runs
    }
    low, high = min(means.values(), default=0), max(means.values(), default=0)
    with mpl.rc_context(STYLE):
        height = 0.9 + 0.38 * len(rows)
        figure, axes = _figure(height=max(2.8, height))
        for candidate in candidates:
            row, column = candidate.hyperparameters
            x, y = columns.index(column), rows.index(row)
            if not candidate.runs:
                axes.text(x, y, "–", ha="center", va="center", alpha=0.6)
                continue
            mean = means[row, column]
            share = (mean - low) / (high - low) if high > low else 0.5
            place = (x - 0.5, y - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, color=HEAT(share), linewidth=0))
            axes.text(
                x, y, f"{mean:.1f} ({len(candidate.runs)})", ha="center", va="center",
                color="#111111", fontsize=8,
            )  # fmt: skip
            if candidate is one.selection.chosen:
                axes.add_patch(Rectangle(
                    (x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor=COLORS[0],
                    linewidth=2.5,
                ))  # fmt: skip
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set(xlabel="τ", ylabel="λ")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure, f"mean validation accuracy of {one.loss} over λ and τ")


def flip_curves(result: TableResult) -> list[tuple[str, str]]:
    """Draw test accuracy against the share of flipped training labels.

    There is one line per loss: mean ± std over all finished runs, with the options
    chosen for each share. Lines are shifted slightly so that error bars do not overlap.

    Returns:
        title and SVG per place; empty for a table without flipped labels.
    """
    found: list[tuple[str, str]] = []
    if len(result.table.flipped) < 2:
        return found
    keys = [k for k in layout.cell_keys(result.table) if k != FLIPPED.key]
    for place in layout.rows(result.table, FLIPPED.key):
        name = ", ".join(layout.named(key, place[key]) for key in keys)
        title = (
            f"{name}: test accuracy, mean ± sample std over all "
            f"{result.table.repeated}s, against the share of flipped training labels"
        )
        if svg := _flip_chart(result, place, title):
            found.append((title, svg))
    return found


def _flip_chart(result: TableResult, place: dict[str, Any], title: str) -> str | None:
    losses = list(result.table.losses)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(width=5.5, height=3.4)
        for number, loss in enumerate(losses):
            color = COLORS[number % len(COLORS)]
            points = []
            for share in result.table.flipped:
                one = result.find(**place, **{FLIPPED.key: share}, loss=loss)
                if (value := one.selection.test_of_all) is not None:
                    beside = 0.4 * (number - (len(losses) - 1) / 2)
                    points.append((100 * share + beside, value.mean, value.std))
            if points:
                x, mean, std = zip(*points, strict=True)
                axes.errorbar(
                    x, mean, yerr=std, color=color, label=loss, marker="o",
                    markersize=3.5, linewidth=1.2, elinewidth=0.7, capsize=2,
                )  # fmt: skip
        if not axes.get_legend_handles_labels()[0]:
            return None
        axes.set_xticks([100 * share for share in result.table.flipped])
        axes.set(xlabel="flipped training labels (%)", ylabel="test accuracy (%)")
        axes.grid(axis="y")
        axes.legend(fontsize=8)
        return _svg(figure, title)


def _figure(width: float = 3.7, height: float = 2.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an ``svg`` element that scales to the available width."""
    file = io.StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    label = html.escape(title)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return text.replace(TEXT, "currentColor").strip()


def with_prefix(svg: str, prefix: str) -> str:
    """Add a prefix to the ids of an ``svg`` element, to make them unique on a page."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}", svg)
