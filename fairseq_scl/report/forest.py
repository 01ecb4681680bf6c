"""Forest plot: differences between CE + SCL and CE, recorded over several tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import yaml
from matplotlib.figure import Figure

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.statistics import (
    PairedDifference,
    paired_difference,
    summary,
)
from fairseq_scl.report.figures import COLORS, save_figure
from fairseq_scl.report.numbers import interval, mean_and_std, p_value
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.typed import Count, Name, Positive, as_type

READ = {"cls": "<s>", "mean": "mean"}


@dataclass(frozen=True)
class Recorded:
    """Correct test answers with CE and CE + SCL on the same samples of ``n`` examples.

    ``features`` is what head and contrastive term read.
    """

    task: Name
    n: Positive
    features: Literal["cls", "mean"]
    test_examples: Positive
    ce: list[Count]
    scl: list[Count]

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ValueError: the losses have different numbers of samples, there are fewer
                than two, or a count is larger than the test set.
        """
        if len(self.ce) != len(self.scl) or len(self.ce) < 2:
            raise ValueError(
                f"ce has {len(self.ce)} samples and scl {len(self.scl)}: both must "
                "have the same ones, at least two"
            )
        if (most := max(*self.ce, *self.scl)) > self.test_examples:
            raise ValueError(f"{most} correct of {self.test_examples} test examples")

    def accuracies(self) -> tuple[list[float], list[float]]:
        """Return the test accuracies of CE and CE + SCL in percent."""
        ce, scl = (
            [100 * correct / self.test_examples for correct in counts]
            for counts in (self.ce, self.scl)
        )
        return ce, scl

    @property
    def difference(self) -> PairedDifference:
        """CE + SCL minus CE in points of test accuracy."""
        return paired_difference(*self.accuracies())


def read_recorded(path: Path) -> list[Recorded]:
    """Read a YAML list of :class:`Recorded`.

    Raises:
        InputError: the file is missing, is not YAML, or has an invalid value.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return as_type(found, list[Recorded], str(path))


def recorded_sheet(recorded: Sequence[Recorded]) -> Sheet:
    """Return the accuracies and paired differences as a sheet."""
    rows = []
    for one in recorded:
        ce, scl = one.accuracies()
        found = one.difference
        rows.append(
            (
                one.task,
                f"{one.n:,}",
                READ[one.features],
                str(found.count),
                *(mean_and_std(summary(values)) for values in (ce, scl)),
                f"{found.mean:+.2f}",
                interval(found.low, found.high),
                p_value(found.t_p),
                f"{found.won}–{found.lost}",
            )
        )
    header = ("task", "N", "read at", "samples", "CE", "CE + SCL", "difference")
    return Sheet(
        name="recorded",
        title="Test accuracy (%), mean ± std of all samples, and CE + SCL minus CE",
        header=(*header, "95% t", "p (t)", "won–lost"),
        rows=tuple(rows),
        named=3,
    )


def forest_plot(recorded: Sequence[Recorded], path: Path) -> None:
    """Draw each difference with its 95% interval (Student's t), grouped by task.

    Args:
        recorded: the comparisons, those of a task next to each other.
        path: the PNG file to write.
    """
    groups = [(task, list(ones)) for task, ones in groupby(recorded, lambda r: r.task)]
    lines = len(recorded) + len(groups)
    figure = Figure(figsize=(9, 1 + 0.27 * lines), layout="constrained")
    axes = figure.subplots()
    beside = axes.get_yaxis_transform()  # x in parts of the width, y in lines
    place, ticks, labels = 0, [], []
    for task, ones in groups:
        axes.text(-0.01, place, task, transform=beside, ha="right", va="center",
                  weight="bold")  # fmt: skip
        for one in ones:
            place += 1
            found = one.difference
            color = COLORS[list(READ).index(one.features)]
            axes.plot((found.low, found.high), (place, place), color=color, linewidth=2)
            axes.plot(found.mean, place, marker="o", color=color)
            ticks.append(place)
            labels.append(f"N = {one.n:,}, {READ[one.features]}")
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
    save_figure(figure, path)
