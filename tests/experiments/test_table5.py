"""Table 5: a column a temperature, from the plan to the report."""

import csv
import io
import math
import statistics
from pathlib import Path

from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.results import Attempt, summarize
from fairseq_scl.experiments.tables import load_table, smoke
from fairseq_scl.report.csv_rows import as_csv, attempt_rows, cell_rows
from fairseq_scl.report.sheets import accuracies, basis, differences
from fairseq_scl.report.words import verdicts
from helpers.results import make_record, make_table, runs_of

MODELS = {"CE": Path("encoder"), "CE+SCL": Path("encoder")}
COLUMNS = ["original", 0.3, 0.5, 0.7, 0.9]


def test_every_column_has_its_folders_and_the_whole_grid():
    runs = planned_runs(load_table("table5"), Path("data"), MODELS)
    assert len(runs) == 3 * 5 * 10 * 25
    assert len({run.name for run in runs}) == len(runs)
    assert {run.updates for run in runs} == {200}
    first = next(r for r in runs if r.cell["temperature"] == 0.3)
    assert first.data == Path("data/SST-2/n100-sample0-bt0.3")
    assert first.name == "SST-2-n100-bt0.3-CE-sample0"
    runs = planned_runs(smoke(load_table("table5")), Path("data"), MODELS)
    assert len(runs) == 3 * 5 * 3 * 2


def correct(cell):
    """Correct answers of 400: CE loses with noise, CE + SCL less."""
    noise = 0 if cell["temperature"] == "original" else 100 * cell["temperature"]
    gain = 8 if cell["loss"] == "CE+SCL" else 0
    lost = noise / 2 if gain else noise
    return round(340 + gain - lost + 3 * cell["seed"] ** 2)


def results(missing=(), **settings):
    found = {"name": "table5", "temperatures": COLUMNS, "sizes": [100], **settings}
    table = make_table(**found)
    attempts = [
        Attempt(run)
        if run.cell["temperature"] in missing
        else Attempt(run, make_record(run, 150 + run.seed, correct(run.cell)))
        for run in runs_of(table)
    ]
    return summarize(table, attempts)


def test_rows_are_tasks_and_losses_and_columns_temperatures():
    sheet = accuracies(results())
    assert sheet.groups == (
        *(("", 2), ("original", 2), ("T = 0.3", 2), ("T = 0.5", 2)),
        *(("T = 0.7", 2), ("T = 0.9", 2), ("average", 2)),
    )
    assert sheet.header == ("task", "loss", *["ours", "paper"] * 6)
    first = sheet.rows[0]
    assert first[:2] == ("SST-2", "CE")
    assert first[3::2] == (
        *("91.1 ± 1.3", "92.0 ± 1.3", "91.4 ± 1.0", "91.7 ± 1.3", "90.0 ± 0.5"),
        "91.3 ± 1.2",
    )
    assert [row[:2] for row in sheet.rows] == [("SST-2", "CE"), ("SST-2", "CE+SCL")]
    assert any("that the augmented columns " in note for note in sheet.notes)
    assert any("Table 5" in note for note in sheet.notes)


def test_the_average_pools_the_reported_runs_of_the_augmented_columns():
    rows = accuracies(results()).rows
    for row, loss in zip(rows, ("CE", "CE+SCL"), strict=True):
        values = [
            correct({"temperature": t, "loss": loss, "seed": seed}) / 4
            for t in COLUMNS[1:]
            for seed in (1, 2, 3)  # of four, those with the best validation
        ]
        mean, std = statistics.fmean(values), statistics.stdev(values)
        assert row[-2] == f"{mean:.1f} ± {std:.1f}"


def test_no_average_of_some_of_its_columns():
    rows = accuracies(results(missing=[0.7])).rows
    assert rows[0][8] == "– (0 of 4)"
    assert rows[0][-2:] == ("– (3 of 4)", "91.3 ± 1.2")
    fewer = accuracies(results(temperatures=["original", 0.3, 0.9])).rows
    assert fewer[0][-1] == ""  # the paper's is over four columns
    assert accuracies(results(temperatures=["original", 0.3])).groups[-1][0] != (
        "average"
    )


def test_a_table_of_your_own_has_an_average_too():
    sheet = accuracies(results(name="mine"))
    assert sheet.header == ("task", "loss", *["ours"] * 6)
    assert sheet.groups[-1] == ("average", 1)


def test_several_sizes_are_named():
    sheet = accuracies(results(name="mine", sizes=[20, 100]))
    assert sheet.header[:3] == ("task", "N", "loss")
    assert [row[1] for row in sheet.rows] == ["20", "20", "100", "100"]


def test_every_column_has_its_basis_difference_and_verdict():
    found = results()
    assert basis(found).header[:3] == ("task", "T", "loss")
    assert [row[1] for row in basis(found).rows[::2]] == list(map(str, COLUMNS))
    rows = differences(found).rows
    assert len(rows) == 5
    assert rows[4][:5] == ("SST-2", "0.9", "CE+SCL − CE", "4 of 4", "+13.25")
    said = [sentence for _, sentence in verdicts(found)]
    assert said[0].startswith("SST-2, original: CE+SCL (λ = 0.5")
    assert said[1].startswith("SST-2, T = 0.3: CE+SCL")


def test_csv_has_the_columns_and_the_averages():
    found = results()
    rows = list(csv.DictReader(io.StringIO(as_csv(cell_rows(found)))))
    assert len(rows) == 2 * 5 + 2
    assert [r["temperature"] for r in rows[::2]] == [*map(str, COLUMNS), "average"]
    average = rows[-1]
    assert (average["task"], average["loss"], average["n"]) == (
        *("SST-2", "CE+SCL"),
        "100",
    )
    assert (average["paper_mean"], average["runs_reported"]) == ("91.7", "12")
    assert average["verdict"] == ""
    runs = list(csv.DictReader(io.StringIO(as_csv(attempt_rows(found)))))
    assert {row["temperature"] for row in runs} == set(map(str, COLUMNS))


def test_the_average_of_one_run_per_column_has_no_deviation():
    found = results(selection="full-data", sizes=["full"], name="mine")
    mean = accuracies(found).rows[0][-1]
    assert "±" in mean  # between columns
    assert not math.isnan(cell_rows(found)[-1]["test_std"])
