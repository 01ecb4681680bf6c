"""From records to cells: choices, counts and gains that are known beforehand."""

import json
import re
from dataclasses import replace

import pytest

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.results import (
    DONE,
    FAILED,
    HELPED,
    HURT,
    MISSING,
    OPEN,
    UNKNOWN,
    Attempt,
    collect,
    count_degenerate,
    summarize,
    verdict,
)
from fairseq_scl.experiments.results_folder import METRICS, RECORD
from fairseq_scl.experiments.selection import compare
from fairseq_scl.experiments.statistics import summary
from helpers.results import (
    CLASSES,
    attempts_of,
    make_record,
    make_table,
    runs_of,
    write_results,
)
from helpers.results import results as results_of

CE = {
    ("CE", None, None, seed): counts
    for seed, counts in enumerate([(150, 300), (160, 304), (170, 308), (140, 296)])
}
# The best combination, and one with better validation that is not complete.
SCL = {
    ("CE+SCL", 0.9, 0.3, seed): counts
    for seed, counts in enumerate([(152, 312), (165, 314), (171, 316), (141, 300)])
}
SCL |= {("CE+SCL", 0.5, 0.3, seed): (130 + seed, 280) for seed in range(4)}
SCL |= {("CE+SCL", 0.5, 0.1, seed): (199, 390) for seed in range(3)}
SCL |= {("CE+SCL", 0.9, 0.1, 0): "out of memory"}


def results(counts=None, **settings):
    return results_of({**CE, **SCL, **(counts or {})}, **settings)


def one_of(result, loss="CE+SCL", **where):
    where = {"task": "SST-2", "n": 20, "batch_size": 16, **where}
    return result.find(loss=loss, **where)


def test_few_shot_cells_are_chosen_by_the_paper_s_rule():
    ce, scl = (one_of(results(), loss) for loss in ("CE", "CE+SCL"))
    # Samples 2, 1, 0 have the best validation accuracies.
    assert ce.selection.test == summary([100 * c / 400 for c in (308, 304, 300)])
    assert scl.selection.test == summary([100 * c / 400 for c in (316, 314, 312)])
    assert [run.seed for run in scl.selection.reported] == [2, 1, 0]
    assert ce.hyperparameters == {}
    assert scl.hyperparameters == {"scl_lambda": 0.9, "scl_temperature": 0.3}


def test_full_data_cells_report_the_best_seed():
    result = results(
        sizes=["full"], selection="full-data", training={"updates": 40}, name="table2"
    )
    scl = one_of(result, n="full")
    assert scl.selection.test.mean == 100 * 316 / 400
    assert [run.seed for run in scl.selection.reported] == [2]


def test_what_is_planned_is_counted_whether_it_was_run_or_not():
    ce, scl = (one_of(results(), loss) for loss in ("CE", "CE+SCL"))
    assert [ce.count(state) for state in (DONE, FAILED, MISSING)] == [4, 0, 0]
    assert [scl.count(state) for state in (DONE, FAILED, MISSING)] == [11, 1, 4]
    assert len(scl.selection.candidates) == 4
    assert scl.competing == 2  # 0.5 with 0.1 has three of four, 0.9 with 0.1 none


def test_losses_are_compared_on_every_pair_not_the_reported_ones():
    ce, scl = (one_of(results(), loss) for loss in ("CE", "CE+SCL"))
    assert ce.comparison is None
    assert scl.comparison == compare(
        ce.selection.chosen.runs, scl.selection.chosen.runs
    )
    # (12 + 10 + 8 + 4) / 4 answers of 400
    assert scl.comparison.mean == pytest.approx(34 / 4 / 4)
    assert (scl.comparison.won, scl.comparison.lost) == (4, 0)


def test_too_few_runs_give_no_number():
    counts = {("CE", None, None, seed): None for seed in (0, 1)}
    ce, scl = (one_of(results(counts), loss) for loss in ("CE", "CE+SCL"))
    assert ce.selection.test is None
    assert ce.selection.reported == ()
    assert len(ce.chosen_attempts) == 2  # there is only one combination
    assert scl.comparison.count == 2
    scl = one_of(results(dict.fromkeys(key for key in SCL if key[3] > 1)))
    assert (scl.selection.chosen, scl.chosen_attempts) == (None, ())
    assert scl.comparison is None
    assert verdict(scl.comparison) == UNKNOWN


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((111, 221), 0),
        ((111, 220), 1),  # 220 of 400 test labels are of the majority class
        ((110, 390), 1),  # and 110 of 200 validation labels
    ],
)
def test_degenerate_runs_are_counted_at_the_chosen_combination(counts, expected):
    found = results({("CE+SCL", 0.9, 0.3, 3): counts})
    assert one_of(found).degenerate == expected


@pytest.mark.parametrize("subset", ["valid", "test"])
def test_label_counts_of_another_subset_are_refused(subset):
    record = make_record(runs_of(make_table())[0], 150, 300)
    record.origin["classes"] = {**CLASSES, subset: {"a": 60, "b": 30}}
    total = sum(CLASSES[subset].values())
    message = f"{subset} accuracy is of {total} examples, the label counts are of 90"
    with pytest.raises(ValueError, match=message):
        count_degenerate([record])


def test_degenerate_runs_are_not_counted_where_the_classes_are_not_known():
    record, partial = (make_record(runs_of(make_table())[0], 0, 0) for _ in range(2))
    assert count_degenerate([record]) == 1
    record.origin.pop("classes")
    assert count_degenerate([record]) is None
    # Some steps of each validation: the counts are of more than was measured.
    partial.settings["max_valid_steps"] = 1
    assert count_degenerate([partial]) is None


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([4, 5, 6, 5], HELPED),
        ([-4, -5, -6, -5], HURT),
        ([-4, 5, -6, 5], OPEN),
        ([0, 0, 0, 0], OPEN),
        # Student's interval holds 0, the bootstrap's does not: the wider counts.
        ([0, 8, 1, 1], OPEN),
    ],
)
def test_verdicts(gains, expected):
    counts = {
        ("CE+SCL", 0.9, 0.3, seed): (190, CE["CE", None, None, seed][1] + gain)
        for seed, gain in enumerate(gains)
    }
    assert verdict(one_of(results(counts)).comparison) == expected


def test_a_table_of_two_samples_reports_the_two():
    table = make_table(repetitions=2)
    counts = {key: c for key, c in {**CE, **SCL}.items() if key[3] < 2}
    scl = one_of(summarize(table, attempts_of(table, counts)))
    assert scl.hyperparameters["scl_lambda"] == 0.5
    assert scl.selection.test.count == 2


def test_a_folder_gives_back_what_was_written(tmp_path):
    table = make_table()
    attempts = attempts_of(table, {**CE, **SCL})
    folder = write_results(tmp_path, table, attempts)
    found = collect(folder, runs_of(table))
    assert [a.state for a in found] == [a.state for a in attempts]
    assert [a.error for a in found] == [a.error for a in attempts]
    for one, other in zip(found, attempts, strict=True):
        assert (one.record and one.record.valid) == (
            other.record and other.record.valid
        )
    assert (
        summarize(table, found)
        .find(task="SST-2", n=20, batch_size=16, loss="CE")
        .selection
        == one_of(results(), "CE").selection
    )


def test_floors_are_read_where_they_were_written(tmp_path):
    table = make_table()
    folder = write_results(tmp_path, table, attempts_of(table, CE))
    run = runs_of(table)[0]
    lines = [
        {"subset": "valid", "update": 20, "scl_floor": 1.9},
        {"subset": "test", "update": 20, "scl_floor": 2.9},
    ]
    metrics = folder / "runs" / run.name / METRICS
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert collect(folder, [run])[0].floors == ((20, 1.9),)
    metrics.write_text('{"subset": "valid", "update": 20}\n', "utf-8")
    assert collect(folder, [run])[0].floors == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 2e-5),
        ("updates", 41),
        ("validations", 3),
        ("scl_lambda", 0.25),
        ("seed", 3),
        ("batch_size", 8),
        ("options", {"scl_features": "pooled"}),
        ("name", "other"),
    ],
)
def test_a_record_of_other_settings_is_refused(tmp_path, key, value):
    table = make_table()
    run = runs_of(table)[0]
    record = make_record(run, 150, 300)
    record.settings[key] = value
    write_results(tmp_path, table, [Attempt(run, record)])
    with pytest.raises(
        InputError, match=rf"{RECORD} .*{key} is {re.escape(repr(value))}"
    ):
        collect(tmp_path, [run])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "/moved"),
        ("encoder", "/moved"),
        ("device", "cuda"),
        ("precision", "bf16"),
        ("keep_checkpoint", True),
        ("chunk", None),  # older records lack it
    ],
)
def test_where_and_how_fast_a_run_was_done_may_differ(tmp_path, key, value):
    table = make_table()
    run = runs_of(table)[0]
    record = make_record(run, 150, 300)
    record.settings[key] = value
    if value is None:
        del record.settings[key]
    write_results(tmp_path, table, [Attempt(run, record)])
    assert collect(tmp_path, [run])[0].record == record


@pytest.mark.parametrize("name", ["data", "encoder", "user_dir"])
def test_runs_on_different_contents_of_a_folder_are_refused(tmp_path, name):
    table = make_table()
    runs = [run for run in runs_of(table) if run.seed == 0][:2]
    first, second = (make_record(run, 150, 300) for run in runs)
    second.origin["sha256"][name] = "f" * 64
    write_results(tmp_path, table, map(Attempt, runs, (first, second)))
    with pytest.raises(InputError) as error:
        collect(tmp_path, runs)
    assert all(run.name in str(error.value) for run in runs)
    assert str(getattr(runs[0], name)) in str(error.value)


def test_epochs_of_data_that_is_not_here_are_not_compared(tmp_path):
    table = make_table(training={"epochs": 3})
    run = runs_of(table)[0]
    assert run.updates == 0
    record = make_record(replace(run, updates=30, validations=10), 150, 300)
    write_results(tmp_path, table, [Attempt(run, record)])
    assert collect(tmp_path, [run])[0].record == record
