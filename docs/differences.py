"""Draw differences.png from differences.yaml and print the first table of results.md.

Usage: python docs/differences.py [PICTURE]
"""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from fairseq_scl.experiments.statistics import paired_difference, summary
from fairseq_scl.report.figures import COLORS, save_figure
from fairseq_scl.report.markdown import sheet_as_markdown
from fairseq_scl.report.numbers import interval, mean_and_std, p_value
from fairseq_scl.report.sheets import Sheet

RECORDED = Path(__file__).with_suffix(".yaml")
READ = {"cls": "<s>", "mean": "mean"}


def table(recorded: Sequence[dict[str, Any]]) -> str:
    """Format accuracies and paired differences as Markdown, one row per comparison."""
    rows = []
    for one in recorded:
        found = one["difference"]
        rows.append(
            (
                one["task"],
                f"{one['n']:,}",
                READ[one["features"]],
                str(found.count),
                *(mean_and_std(summary(one[loss])) for loss in ("ce", "scl")),
                f"{found.mean:+.2f}",
                interval(found.low, found.high),
                p_value(found.t_p),
                f"{found.won}–{found.lost}",
            )
        )
    header = ("task", "N", "pooling", "samples", "CE", "CE + SCL", "difference")
    return sheet_as_markdown(
        Sheet(
            name="recorded",
            title="Test accuracy (%), mean ± std of all samples, and CE + SCL minus CE",
            header=(*header, "95% t", "p (t)", "won–lost"),
            rows=tuple(rows),
            named=3,
        )
    )


def forest_plot(recorded: Sequence[dict[str, Any]]) -> Figure:
    """Draw each difference with its 95% interval (Student's t), grouped by task."""
    groups = [(task, list(g)) for task, g in groupby(recorded, lambda one: one["task"])]
    lines = len(recorded) + len(groups)
    figure = Figure(figsize=(9, 1 + 0.27 * lines), layout="constrained")
    axes = figure.subplots()
    beside = axes.get_yaxis_transform()  # x in parts of the width, y in lines
    place, ticks, labels = 0, [], []
    for task, group in groups:
        axes.text(-0.01, place, task, transform=beside, ha="right", va="center",
                  weight="bold")  # fmt: skip
        for one in group:
            place += 1
            found = one["difference"]
            color = COLORS[list(READ).index(one["features"])]
            axes.plot((found.low, found.high), (place, place), color=color, linewidth=2)
            axes.plot(found.mean, place, marker="o", color=color)
            ticks.append(place)
            labels.append(f"N = {one['n']:,}, {READ[one['features']]}")
            text = f"{found.mean:+.2f} ({interval(found.low, found.high)})"
            axes.text(1.02, place, f"{text}, {found.count} samples",
                      transform=beside, va="center", fontsize=9)  # fmt: skip
        place += 1
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(ticks, labels)
    axes.set(ylim=(lines - 0.4, -0.6))
    axes.set_xlabel("CE + SCL minus CE, points of test accuracy, with 95% interval")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


recorded = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))
for one in recorded:
    for loss in ("ce", "scl"):
        one[loss] = [100 * correct / one["test_examples"] for correct in one[loss]]
    one["difference"] = paired_difference(one["ce"], one["scl"])
print(table(recorded))
picture = sys.argv[1] if len(sys.argv) > 1 else RECORDED.with_suffix(".png")
save_figure(forest_plot(recorded), Path(picture))
