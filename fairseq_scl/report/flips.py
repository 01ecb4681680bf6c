"""Accuracy against the share of training labels that were flipped."""

from typing import Any

import matplotlib as mpl

from fairseq_scl.experiments.results import TableResult
from fairseq_scl.experiments.variants import FLIPPED
from fairseq_scl.report import layout
from fairseq_scl.report.charts import STYLE, _colours, _figure, _svg


def flip_curves(result: TableResult) -> list[tuple[str, str]]:
    """Draw one line a loss: mean ± std of the test accuracy of every finished run.

    Each at the options chosen for its share of flipped labels. Lines stand a little
    beside each other, so that their bars can be told apart.

    Returns:
        title and SVG of each place that is flipped; empty for a table without.
    """
    found: list[tuple[str, str]] = []
    shares = result.table.flipped
    if len(shares) < 2:
        return found
    places: list[dict[str, Any]] = []
    for cell in result.cells:
        place = {k: v for k, v in cell.place.items() if k != FLIPPED.key}
        places += [] if place in places else [place]
    for place in places:
        keys = [k for k in layout.cell_keys(result.table) if k != FLIPPED.key]
        name = ", ".join(layout.named(key, place[key]) for key in keys)
        title = (
            f"{name}: test accuracy, mean ± sample std over every "
            f"{result.table.repeated}, against the share of flipped training labels"
        )
        if svg := _curves(result, place, title):
            found.append((title, svg))
    return found


def _curves(result: TableResult, place: dict[str, Any], title: str) -> str | None:
    losses = list(result.table.losses)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(width=5.5, height=3.4)
        for number, (loss, colour) in enumerate(
            zip(losses, _colours(len(losses)), strict=True)
        ):
            points = []
            for share in result.table.flipped:
                one = result.find(**place, **{FLIPPED.key: share}, loss=loss)
                if (value := one.selection.test_of_all) is not None:
                    beside = 0.4 * (number - (len(losses) - 1) / 2)
                    points.append((100 * share + beside, value.mean, value.std))
            if points:
                x, mean, std = zip(*points, strict=True)
                axes.errorbar(
                    x, mean, yerr=std, color=colour, label=loss, marker="o",
                    markersize=3.5, linewidth=1.2, elinewidth=0.7, capsize=2,
                )  # fmt: skip
        if not axes.get_legend_handles_labels()[0]:
            return None
        axes.set_xticks([100 * share for share in result.table.flipped])
        axes.set(xlabel="flipped training labels (%)", ylabel="test accuracy (%)")
        axes.grid(axis="y")
        axes.legend(fontsize=8)
        return _svg(figure, title)
