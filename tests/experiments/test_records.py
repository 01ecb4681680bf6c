"""Result files: read back as written, other versions and damage refused."""

import json

import pytest

from fairseq_scl.errors import InputError
from fairseq_scl.experiments import records, runner, sweep
from fairseq_scl.experiments.records import Record, Validation, origin
from fairseq_scl.experiments.results_folder import (
    RECORD,
    read_metrics,
    read_record,
    write_record,
)
from helpers.damage import edit
from helpers.encoders import toy_run
from helpers.refusals import refused

SETTINGS = {"scl_lambda": 0.9, "scl_temperature": 0.3, "seed": 1}
SETTINGS |= {"updates": 60, "learning_rate": 1e-4, "cell": {}}


def make_record(**settings):
    return Record(
        settings={"name": "a run", **SETTINGS, **settings},
        valid=[Validation(30, 7, 10, 0.61, 2.1), Validation(60, 8, 10, 0.5, 2.0)],
        test=[Validation(30, 6, 10, 0.7, 2.2), Validation(60, 5, 10, 0.71, 2.1)],
        seconds=12.5,
        argv=["fairseq-train", "a folder with spaces"],
        origin={"commit": None, "versions": {}, "sha256": {"data": "ab"}},
    )


def metrics_line(subset="valid", update=10, correct=7.0, **more):
    row = {"subset": subset, "update": update, "n_correct": correct, "n_total": 10}
    return json.dumps({**row, "ce_loss": 0.25, "scl_loss": 2.5, **more}) + "\n"


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = make_record()
    write_record(tmp_path / "run", record)
    assert read_record(tmp_path / "run") == record
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RECORD]


def test_a_run_without_a_record_has_not_finished(tmp_path):
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("schema", 2, "schema"),
        ("schema", None, "schema"),
        ("schema", "1", "schema"),
        ("valid.0.correct", 11, "correct is 11"),
        ("valid.0.correct", -1, "valid[0].correct"),
        ("test.1.total", 0, "test[1].total"),
        ("test.1.total", True, "test[1].total"),
        ("valid.1.ce_loss", "low", "valid[1].ce_loss"),
        ("valid.1.ce_loss", float("nan"), "ce_loss"),
        ("valid", [], "valid"),
        ("test", {}, "test"),
        ("seconds", -3, "seconds"),
        ("settings.seed", None, "seed"),
        ("settings.learning_rate", "1e-4", "learning_rate"),
        ("settings.scl_lambda", 1.5, "scl_lambda"),
        ("origin.sha256", ["ab"], "sha256"),
        ("origin.versions", None, "versions"),
        ("more", 1, "more"),
    ],
)
def test_an_edited_record_is_refused_by_field(tmp_path, field, value, named):
    write_record(tmp_path, make_record())
    edit(tmp_path / RECORD, field, value)
    with refused(tmp_path / RECORD, named):
        read_record(tmp_path)


def test_accuracy_comes_from_the_exact_counts():
    assert Validation(1, 2, 3, 0.0, 0.0).accuracy == pytest.approx(200 / 3)


def test_metrics_are_sorted_by_subset_and_update(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        metrics_line(update=20, correct=8)
        + metrics_line("test", 20)
        + metrics_line(update=10),
        "utf-8",
    )
    assert read_metrics(path) == {
        "valid": [Validation(10, 7, 10, 0.25, 2.5), Validation(20, 8, 10, 0.25, 2.5)],
        "test": [Validation(20, 7, 10, 0.25, 2.5)],
    }


def test_an_update_that_a_resumed_run_validated_again_counts_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        metrics_line(correct=1) + metrics_line(update=20) + metrics_line(correct=9),
        "utf-8",
    )
    found = read_metrics(path)["valid"]
    assert [(v.update, v.correct) for v in found] == [(10, 9), (20, 7)]


@pytest.mark.parametrize(
    "line",
    [
        '{"subset": "valid", "upd',
        "",
        "3",
        "[]",
        '{"subset": "valid", "update": 20}',
        '{"subset": "valid", "update": 20, "n_correct": null, "n_total": 10}',
        metrics_line(correct=11).strip(),
        metrics_line(correct=float("nan")).strip(),
        metrics_line(ce_loss=float("nan")).strip(),
    ],
)
def test_a_broken_line_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(metrics_line() + line + "\n", "utf-8")
    with refused(f"{path}, line 2"):
        read_metrics(path)


def test_the_origin_has_versions_commit_and_checksums():
    found = origin({"data": "ab"})
    assert {"torch", "numpy"} <= found["versions"].keys()
    assert found["sha256"] == {"data": "ab"}
    assert found["commit"] is None or len(found["commit"]) == 40
    json.dumps(found)


@pytest.fixture
def unknown_code():
    """Have the state of the code looked up in the test and again afterwards."""
    records.state_of_code.cache_clear()
    yield
    records.state_of_code.cache_clear()


@pytest.mark.usefixtures("unknown_code")
def test_the_commit_is_that_of_the_start_of_the_process(monkeypatch):
    monkeypatch.setattr(records, "_git", lambda arguments: "first")
    records.state_of_code()
    monkeypatch.setattr(records, "_git", lambda arguments: "second")
    assert (origin({})["commit"], origin({})["changed_files"]) == ("first", 1)


@pytest.mark.parametrize(
    "start",
    [
        lambda folder: sweep.sweep([toy_run()], folder, jobs=1),
        lambda folder: runner.run_training(toy_run(), folder / "run", lambda *_: 0),
    ],
)
def test_training_begins_with_the_state_of_the_code(tmp_path, monkeypatch, start):
    """In the process that forks the workers, too."""

    class Asked(BaseException):
        pass

    def ask():
        raise Asked

    for module in (runner, sweep):
        monkeypatch.setattr(module, "state_of_code", ask)
    with pytest.raises(Asked):
        start(tmp_path)


@pytest.mark.usefixtures("unknown_code")
def test_the_origin_works_without_git(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(records.subprocess, "run", no_git)
    found = origin({})
    assert found["commit"] is None
    assert found["changed_files"] is None


def test_a_record_that_is_a_link_to_itself_is_not_a_missing_one(tmp_path):
    (tmp_path / RECORD).symlink_to(RECORD)
    with pytest.raises(InputError, match=RECORD):
        read_record(tmp_path)
