"""The layout of a table: its columns, its rows and its averages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq_scl.experiments.loss_grid import varying_options
from fairseq_scl.experiments.results import LossResult, TableResult
from fairseq_scl.experiments.selection import GRID
from fairseq_scl.experiments.statistics import Summary, pool
from fairseq_scl.experiments.tables import FEW_SHOT, Table
from fairseq_scl.experiments.variants import (
    AUGMENTED,
    FLIPPED,
    ORIGINAL,
    in_short_form,
    variants_of,
)
from fairseq_scl.report.paper import PaperTable, paper_tables

NAMES = {"task": "task", "n": "N", "batch_size": "batch"}
NAMES |= {"temperature": "T", "flipped": "flipped"}


@dataclass(frozen=True)
class Average:
    """The average at the end of a row.

    Attributes:
        ours: average of the reported runs; ``None`` if any column lacks them.
        columns: number of columns with reported runs.
        expected: number of averaged columns.
        paper: the paper's average, if it is over the same columns.
    """

    ours: Summary | None
    columns: int
    expected: int
    paper: Summary | None


def column_key(table: Table) -> str:
    """Return the key of the columns: ``temperature``, else ``flipped``, else ``task``.

    Table 5 has temperatures and label-noise tables have flipped labels.
    """
    if table.temperatures:
        return AUGMENTED.key
    return FLIPPED.key if table.flipped else "task"


def columns(table: Table) -> tuple[Any, ...]:
    """Return the values of the columns: temperatures, flipped shares or tasks."""
    return table.temperatures or table.flipped or table.tasks


def rows(table: Table, column: str | None = None) -> list[dict[str, Any]]:
    """Return the places without a column, and without the loss, in the table's order.

    The ``column`` is by default that of :func:`column_key`.
    """
    column = column or column_key(table)
    found: list[dict[str, Any]] = []
    for place in table.places:
        row = {key: value for key, value in place.items() if key != column}
        found += [] if row in found else [row]
    return found


def cell_keys(table: Table) -> list[str]:
    """Return the keys that name a cell: the task, and keys with several values."""
    one_size = len(table.sizes) == 1
    # A single size is in the caption of Table 5, and full data is not named.
    variants = [variant.key for variant, _ in variants_of(table)]
    unnamed = one_size and (table.selection != FEW_SHOT or bool(variants))
    keys = ["task", *([] if unnamed else ["n"])]
    keys += ["batch_size"] if len(table.batch_sizes) > 1 else []
    return [*keys, *variants]


def options(table: Table) -> list[str]:
    """Return λ, τ and the other varying options of a table's losses."""
    varying = (key for grid in table.losses.values() for key in varying_options(grid))
    return list(dict.fromkeys([*GRID, *varying]))


def texts(keys: Sequence[str], place: Mapping[str, Any]) -> list[str]:
    """Return the texts of a place in the columns of these keys."""
    return [in_short_form(place[key]) for key in keys]


def named(key: str, value: Any) -> str:
    """Return a value with its name: ``N = 20``, ``T = 0.3``, or the name of a task."""
    if key == FLIPPED.key:
        return f"{100 * value:g}% flipped"
    if key == "task" or value == ORIGINAL:
        return str(value)
    sign = "batch " if key == "batch_size" else f"{NAMES[key]} = "
    return sign + in_short_form(value)


def averaged(table: Table) -> tuple[Any, ...]:
    """Return the averaged columns; empty if the table does not have an average.

    In Table 5 these are the augmented columns. Tasks are averaged only if the paper
    does so, and only if the table has all of the paper's tasks.
    """
    if column_key(table) == FLIPPED.key:
        return ()
    if table.temperatures:
        noisy = tuple(t for t in table.temperatures if t != ORIGINAL)
        return noisy if len(noisy) > 1 else ()
    over = _averaged_by_paper(paper_tables().get(table.name), "task")
    return over if set(over) <= set(table.tasks) else ()


def average(result: TableResult, row: Mapping[str, Any], loss: str) -> Average:
    """Average a row over the columns of :func:`averaged`.

    In Table 5, Gunel et al. (2021), this is the mean and sample standard deviation of
    all 4 × 3 accuracies reported in the augmented columns. In Table 2 it is the mean
    over the tasks; the paper does not print a deviation, so the std is NaN.
    """
    table, over = result.table, averaged(result.table)
    column = column_key(table)
    found: list[LossResult] = [
        result.find(**row, **{column: value}, loss=loss) for value in over
    ]
    groups = [one.selection.test for one in found if one.selection.test]
    ours = pool(groups) if len(groups) == len(over) else None
    if ours and column == "task":
        ours = Summary(ours.mean, math.nan, ours.count)
    paper = paper_tables().get(table.name)
    printed = None
    if paper and set(_averaged_by_paper(paper, column)) == set(over):
        printed = paper.average(**row, loss=loss)
    return Average(ours, len(groups), len(over), printed)


def _averaged_by_paper(paper: PaperTable | None, column: str) -> tuple[Any, ...]:
    if paper is None or not paper.averages or column in paper.averages[0].where:
        return ()
    every = dict.fromkeys(cell.where[column] for cell in paper.cells)
    return tuple(value for value in every if value != ORIGINAL)
