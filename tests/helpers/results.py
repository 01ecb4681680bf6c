"""Invented results of a table: records with known accuracies."""

import json
import random
from pathlib import Path

from msgspec.structs import replace

from fairseq_scl.experiments.command import loss_flags
from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.experiments.results import Attempt, TableResult, summarize
from fairseq_scl.experiments.results_folder import (
    ERROR,
    METRICS,
    RECORD,
    run_folder,
    write_record,
    write_table,
)
from fairseq_scl.experiments.runner import record_settings
from fairseq_scl.experiments.tables import Table, parse_table

CLASSES = {"valid": {"no": 110, "yes": 90}, "test": {"no": 220, "yes": 180}}
NOWHERE = Path("nowhere")
SUBSETS = ("valid", "test")
# Correct answers of known accuracies: 75 to 78 in the test with CE.
CE = {("CE", None, None, seed): (150 + seed, 300 + 4 * seed) for seed in range(4)}
SCL = {("CE+SCL", 0.9, 0.3, seed): (160 + seed, 312 + 4 * seed) for seed in range(4)}
SCL[("CE+SCL", 0.9, 0.3, 0)] = (160, 310)
BOTH = {**CE, **SCL}
GRID = {"scl_lambda": [0.5, 0.9], "scl_temperature": [0.1, 0.3]}


def make_table(name="table4", **settings) -> Table:
    """Return a few-shot table with two losses and a two-by-two grid."""
    found = {
        "protocol": 1,
        "caption": "Few labeled examples, test accuracy in percent",
        "selection": "few-shot",
        "repetitions": 4,
        "tasks": ["SST-2"],
        "sizes": [20],
        "losses": {"CE": {"scl_lambda": 0}, "CE+SCL": GRID},
        "training": {"updates": 40, "validations": 2},
    }
    return parse_table(name, {**found, **settings}, "a test")


def runs_of(table):
    """Return the planned runs of a table."""
    return planned_runs(table, NOWHERE, dict.fromkeys(table.losses, NOWHERE))


def make_record(run, valid, test, versions=None, **origin) -> Record:
    """Return a record whose best validation is the first of two.

    Args:
        run: the planned run.
        valid: correct answers of 200 at the best validation.
        test: correct answers of 400 on the test set at that point.
        versions: versions that differ from those of other records.
        origin: origin that differs from that of other records.
    """
    made = {
        "versions": {"torch": "2.13.0", "fairseq": "0.12.2", **(versions or {})},
        "sha256": {"data": f"{run.cell['seed']:064}", "encoder": "e" * 64},
        "classes": CLASSES,
        "commit": "0123456789abcdef",
    }
    updates = (run.updates // 2, run.updates)
    return Record(
        record_settings(run),
        [
            Validation(updates[0], valid, 200, 0.4, 2.2),
            Validation(updates[1], valid - 1, 200, 0.5, 2.0),
        ],
        [Validation(updates[0], test, 400, 0.45, 2.3)],
        12.5,
        ["fairseq-train", "a folder/data", *loss_flags(run.loss)],
        {**made, **origin},
    )


def write_metrics(place, updates=(1,)):
    """Write the metrics of a run: validations of both subsets at these updates."""
    row = {"n_correct": 1, "n_total": 2, "ce_loss": 0.5, "scl_loss": 2.0}
    rows = [{**row, "update": u, "subset": s} for u in updates for s in SUBSETS]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / METRICS).write_text(text, "utf-8")


def attempts_of(table, counts) -> list[Attempt]:
    """Return attempts at all runs of a table.

    Args:
        table: few-shot or full-data.
        counts: correct answers (validation, test) by loss, λ, τ (``None`` for CE) and
            seed. A string is an error; a run without an entry is missing.
    """
    attempts = []
    for run in runs_of(table):
        cell = run.cell
        key = (cell["loss"], cell.get("scl_lambda"), cell.get("scl_temperature"))
        found = counts.get((*key, cell["seed"]))
        if isinstance(found, tuple):
            attempts.append(Attempt(run, make_record(run, *found)))
        else:
            attempts.append(Attempt(run, None, found))
    return attempts


def results(counts=BOTH, **settings) -> TableResult:
    """Return what a report says of a table, see :func:`attempts_of`."""
    table = make_table(**settings)
    return summarize(table, attempts_of(table, counts))


def write_results(folder: Path, table: Table, attempts) -> Path:
    """Write a results folder as ``fairseq-scl run`` does."""
    write_table(folder, table, NOWHERE, dict.fromkeys(table.losses, NOWHERE))
    for attempt in attempts:
        place = run_folder(folder, attempt.run.name)
        if attempt.record:
            write_record(place, attempt.record)
        elif attempt.error is not None:
            place.mkdir(parents=True)
            (place / ERROR).write_text(f"first\n{attempt.error}\n\n", "utf-8")
    return folder


def records(folder: Path) -> list[str]:
    """Return the names of the runs in a results folder that have a record."""
    return sorted(path.parent.name for path in folder.glob(f"runs/*/{RECORD}"))


def random_attempts(table: Table, seed=0, grid_samples=3) -> list[Attempt]:
    """Return realistic attempts for an unfinished grid."""
    draw = random.Random(seed)
    attempts = []
    for run in runs_of(table):
        cell = run.cell
        point = run.loss["scl_lambda"], run.loss["scl_temperature"]
        default = point in ((0, 0.3), (0.9, 0.3))
        if cell["task"] == "MNLI" or (not default and cell["seed"] >= grid_samples):
            attempts.append(Attempt(run))
            continue
        if cell["seed"] == 7 and cell["n"] == 20:
            attempts.append(Attempt(run, None, "RuntimeError: <b>out of memory</b>"))
            continue
        base = 150 if cell["n"] == 20 else 170
        record = make_record(run, base + draw.randint(-9, 9) + 2, 2 * base)
        updates = [run.updates * (i + 1) // 10 for i in range(10)]
        valid = [
            Validation(
                update,
                min(base + draw.randint(-9, 9) + 2 * i, 199),
                200,
                0.69 * 0.9**i + draw.random() / 9,
                3.6 - 0.1 * i + draw.random() / 3,
            )
            for i, update in enumerate(updates)
        ]
        best = max(valid, key=lambda v: (v.correct, v.update))
        right = 2 * base + draw.randint(-19, 19) + (4 if point[0] else 0)
        test = [Validation(best.update, right, 400, 0.4, 3.4)]
        floors = tuple((update, 1.9) for update in updates)
        record = replace(record, valid=valid, test=test)
        attempts.append(Attempt(run, record, None, floors))
    return attempts
