"""Results as CSV rows with full precision and exact counts."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fairseq_scl.experiments.geometry import MEASURES
from fairseq_scl.experiments.results import (
    DONE,
    FAILED,
    MISSING,
    CellResult,
    LossResult,
    TableResult,
    verdict,
)
from fairseq_scl.experiments.statistics import Summary, best_validation, result_at_best
from fairseq_scl.report import layout
from fairseq_scl.report.paper import paper_tables
from fairseq_scl.report.representation_sheets import measures_of

# The columns of a paired difference, and the attributes that they show.
COMPARED = {"pairs": "count", "difference": "mean", "t_low": "low", "t_high": "high"}
COMPARED |= {name: name for name in ("bootstrap_low", "bootstrap_high")}
COMPARED |= {name: name for name in ("t_p", "wilcoxon_p", "won", "lost")}


def cell_rows(result: TableResult) -> list[dict[str, Any]]:
    """Return one row per cell and loss; missing numbers are ``None``.

    If the table has averages, they follow in rows of their own, with ``average`` as
    their task or temperature.
    """
    cells = [
        _cell_row(result, cell, one)
        for cell in result.cells
        for one in cell.losses.values()
    ]
    if not layout.averaged(result.table):
        return cells
    return cells + [
        dict.fromkeys(cells[0]) | _average_row(result, row, loss)
        for row in layout.rows(result.table)
        for loss in result.table.losses
    ]


def attempt_rows(result: TableResult) -> list[dict[str, Any]]:
    """Return one row per finished or failed run, with exact counts."""
    rows = []
    for attempt in result.attempts:
        if attempt.state == MISSING:
            continue
        run, record = attempt.run, attempt.record
        row: dict[str, Any] = {"name": run.name, "state": attempt.state}
        row |= {key: run.cell[key] for key in (*result.table.places[0], "loss")}
        row |= {name: run.cell.get(name) for name in layout.options(result.table)}
        row["seed"] = run.cell["seed"]
        valid = best_validation(record.valid) if record else None
        test = result_at_best(record) if record else None
        row |= {
            "best_update": valid and valid.update,
            "valid_correct": valid and valid.correct,
            "valid_total": valid and valid.total,
            "valid_ce_loss": valid and valid.ce_loss,
            "test_correct": test and test.correct,
            "test_total": test and test.total,
            "seconds": record and record.seconds,
            "error": attempt.error,
        }
        rows.append(row)
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows with the same keys as CSV; ``None`` and NaN are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            "" if isinstance(v, float) and math.isnan(v) else v for v in row.values()
        )
    return text.getvalue()


def _cell_row(result: TableResult, cell: CellResult, one: LossResult) -> dict[str, Any]:
    selection, chosen = one.selection, one.selection.chosen
    where = {**cell.place, "loss": one.loss}
    paper = paper_tables().get(result.table.name)
    row: dict[str, Any] = dict(where)
    options = layout.options(result.table)
    row |= {name: one.hyperparameters.get(name) for name in options}
    row |= {
        "combinations_competing": one.competing,
        "combinations_planned": len(selection.candidates),
        "runs_of_chosen": len(chosen.runs) if chosen else 0,
        "runs_of_each_planned": selection.expected,
        "valid_accuracy": chosen and chosen.valid_accuracy,
        "runs_reported": len(selection.reported),
        **_summary("test", selection.test),
        **_summary("paper", paper.find(**where) if paper else None),
        **_summary("all", selection.test_of_all),
    }
    found = one.comparison
    for column, name in COMPARED.items():
        row[column] = found and getattr(found, name)
    row["verdict"] = found and verdict(found)
    row["degenerate"] = one.degenerate if chosen else None
    if result.table.training.representations:
        measured = measures_of(one)
        for key in MEASURES:
            row |= _summary(key, measured.get(key))
    return row | {state: one.count(state) for state in (DONE, FAILED, MISSING)}


def _average_row(
    result: TableResult, row: Mapping[str, Any], loss: str
) -> dict[str, Any]:
    average = layout.average(result, row, loss)
    return {
        **row,
        layout.column_key(result.table): "average",
        "loss": loss,
        "runs_reported": average.ours and average.ours.count,
        **_summary("test", average.ours),
        **_summary("paper", average.paper),
    }


def _summary(name: str, value: Summary | None) -> dict[str, float | None]:
    mean, std = (value.mean, value.std) if value else (None, None)
    return {f"{name}_mean": mean, f"{name}_std": std}
