"""The paper's accuracies, shown next to ours."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairseq_scl.experiments.statistics import Summary

TABLES = Path(__file__).with_name("paper_tables.yaml")


@dataclass(frozen=True)
class Cell:
    """A printed accuracy and its place.

    Attributes:
        where: its place, such as ``{"task": "SST-2", "loss": "CE", "n": 20}``.
        value: accuracy in percent and number of averaged models; the std is NaN if the
            paper does not print it.
    """

    where: dict[str, Any]
    value: Summary


@dataclass(frozen=True)
class PaperTable:
    """A table of Gunel et al. (2021), first version; cells are row by row.

    ``averages`` are the columns "Avg" of Table 2 and "Average" of Table 5, else empty.
    """

    caption: str
    model: str
    cells: tuple[Cell, ...]
    averages: tuple[Cell, ...]

    def find(self, **where: Any) -> Summary | None:
        """Return a printed accuracy, ``None`` if the paper does not have it.

        Args:
            where: ``task`` and ``loss``, ``batch_size`` in Table 3, ``n`` in Tables 4
                and 7, ``temperature`` (a number or ``"original"``) in Table 5. Keys
                that a table does not have are ignored.
        """
        return _printed(self.cells, where)

    def average(self, **where: Any) -> Summary | None:
        """Return a printed average over a row, ``None`` if the paper does not have it.

        Table 2 uses ``loss``, Table 5 ``task`` and ``loss``.
        """
        return _printed(self.averages, where)


def _printed(cells: Sequence[Cell], where: Mapping[str, Any]) -> Summary | None:
    found = (c.value for c in cells if c.where.items() <= where.items())
    return next(found, None)


@functools.cache
def paper_tables() -> dict[str, PaperTable]:
    """Return Tables 2, 3, 4, 5 and 7 by name."""
    found = yaml.safe_load(TABLES.read_text(encoding="utf-8"))
    return {name: _table(table) for name, table in found.items()}


def _table(table: dict[str, Any]) -> PaperTable:
    count = table["models_per_cell"]
    cells, averages = [], []
    for row in table["rows"]:
        shared = {k: v for k, v in row.items() if k not in ("cells", "average")}
        for column, printed in row["cells"].items():
            where = {table["columns"]: column, **shared}
            cells.append(Cell(where, _summary(printed, count)))
        if "average" in row:
            # The average of Table 5 leaves out the column without augmentation.
            averaged = [column for column in row["cells"] if column != "original"]
            value = _summary(row["average"], count * len(averaged))
            averages.append(Cell(shared, value))
    return PaperTable(table["caption"], table["model"], tuple(cells), tuple(averages))


def _summary(printed: float | list[float], count: int) -> Summary:
    if isinstance(printed, list):
        mean, std = printed
        return Summary(mean, std, count)
    return Summary(printed, math.nan, count)
