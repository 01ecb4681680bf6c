"""The benchmark harness: arithmetic, table and JSON. No test depends on speed."""

import importlib
import json
import sys
from argparse import Namespace
from dataclasses import fields
from hashlib import sha256
from types import ModuleType

import pytest

from benchmarks import __main__ as command
from benchmarks import accuracy
from benchmarks.pairs import Pairs as Measured
from benchmarks.pairs import PeerMissing, Row, Settings, paired, peer_module, quartiles
from benchmarks.random_model import random_classifier
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
)
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.frozen import probed
from helpers import ROOT
from helpers.encoders import toy_data, toy_encoder


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("[a-z]*.py")))
def test_every_benchmark_can_be_imported(file):
    """Those for a GPU run on no other machine, and must not fail there on an import."""
    importlib.import_module(f"benchmarks.{file.stem}")


def test_our_criterion_takes_the_task_of_the_random_classifier():
    _, task = random_classifier((1, 8, 2, 30))
    SentencePredictionSCLCriterion(SentencePredictionSCLConfig(), task)


def test_gain_is_the_median_of_peer_over_ours():
    row = Measured((1.0, 2.0, 4.0), (4.0, 4.0, 4.0)).gain("q", "s", at_least=2)
    assert (row.ours, row.peer, row.unit) == (2.0, 4.0, "ms")
    assert (row.low, row.ratio, row.high) == (1.5, 2.0, 3.0)
    assert (row.target, row.met) == ("at least 2", True)


def test_cost_is_the_median_of_ours_over_peer():
    row = Measured((1.0, 2.0, 4.0), (4.0, 4.0, 4.0)).cost("q", "s", at_most=0.4)
    assert (row.low, row.ratio, row.high) == (0.375, 0.5, 0.75)
    assert (row.target, row.met) == ("at most 0.4", False)


def test_a_row_without_target_is_neither_met_nor_missed():
    row = Measured((1.0,), (2.0,), unit="MiB").gain("q", "s")
    assert (row.target, row.met, row.unit) == ("", None, "MiB")
    assert row.low == row.ratio == row.high == 2.0


def test_ratio_is_the_median_of_pairwise_ratios():
    assert Measured((1.0, 10.0, 5.0), (2.0, 20.0, 1.0)).gain("q", "s").ratio == 2.0


def test_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)


def test_pairs_alternate_which_side_starts():
    calls = []
    found = paired(
        lambda: calls.append("ours"), lambda: calls.append("peer"), 3, least_seconds=0
    )
    assert len(found.ours) == len(found.peer) == 3
    assert calls[-6:] == ["ours", "peer", "peer", "ours", "ours", "peer"]


def test_short_functions_are_repeated():
    calls = []
    paired(lambda: calls.append(1), lambda: None, 1, least_seconds=0.01)
    assert len(calls) > 10


def test_missing_peer_names_the_package():
    with pytest.raises(PeerMissing, match=r"not-there is not installed: install it"):
        peer_module("not_there", "not-there")


@pytest.fixture
def questions(monkeypatch):
    """Three questions: one that succeeds, one without its peer, one without data."""

    def answer(settings):
        assert settings == Settings(rounds=2, threads=1)
        yield Measured((1.0,), (2512.3,)).gain("q", "s", at_least=2)

    def no_peer(settings):
        yield Measured((1.0,), (1.5,)).gain("q", "before", at_least=2)
        raise PeerMissing("install it")

    def no_data(settings):
        raise InputError("--glue is missing")
        yield

    for name, rows in (("a", answer), ("b", no_peer), ("c", no_data)):
        module = ModuleType(f"benchmarks.{name}")
        module.rows = rows
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(command, "QUESTIONS", ("a", "b", "c"))
    threads = command.torch.get_num_threads()
    yield ["--rounds", "2", "--threads", "1"]
    command.torch.set_num_threads(threads)


def test_table_continues_after_a_missing_peer(questions, capsys):
    assert command.main(questions) == 0
    output = capsys.readouterr()
    assert output.out.startswith("processor: ")
    table = [line for line in output.out.splitlines() if line.startswith("|")]
    assert table == [
        "| question | setting | ours | peer | ratio | spread | target |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| q | s | 1 ms | 2,512 ms | 2.51e+03 | 2.51e+03 to 2.51e+03 "
        "| at least 2, met |",
        "| q | before | 1 ms | 1.5 ms | 1.5 | 1.5 to 1.5 | at least 2, missed |",
    ]
    assert "\nb was left out: install it\n" in output.out
    assert "\nc was left out: --glue is missing\n" in output.out
    assert "benchmarks: a …" in output.err


def test_json_has_machine_rows_and_skipped_questions(questions, capsys):
    assert command.main(["--json", *questions]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"processor", "system", "python", "versions"} <= set(found)
    assert "torch " in found["versions"]
    assert [set(row) for row in found["rows"]] == [{f.name for f in fields(Row)}] * 2
    assert [row["met"] for row in found["rows"]] == [True, False]
    assert found["skipped"] == {"b": "install it", "c": "--glue is missing"}


def test_only_selects_questions(questions, capsys):
    assert command.main(["--json", "--only", "c", *questions]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == []
    assert list(found["skipped"]) == ["c"]


def test_gpu_runs_the_gpu_questions(questions, capsys, monkeypatch):
    monkeypatch.setattr(command, "GPU_QUESTIONS", ("c",))
    assert command.main(["--json", "--gpu", *questions]) == 0
    assert list(json.loads(capsys.readouterr().out)["skipped"]) == ["c"]


def test_help_and_errors_name_the_flags(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--json", "--only", "--glue", "--rounds", "--threads"):
        assert flag in text
    for wrong in (["--only", "all"], ["--rounds", "0"], ["--threads", "-1"]):
        with pytest.raises(SystemExit) as ended:
            command.main(wrong)
        assert ended.value.code == 2
        assert wrong[0] in capsys.readouterr().err


def test_methods_are_compared_on_the_samples_that_both_have():
    results = [
        {"method": method, "sample": n, "correct": c, "total": 200, "seconds": s}
        for method, counts, s in (
            ("setfit", (140, 150, 160), 130.0),
            ("CE", (144, 152), None),
            ("frozen", (130,), 2.0),
        )
        for n, c in enumerate(counts)
    ]
    rows = {row[0]: row[1:] for row in accuracy.comparison(results, "setfit").rows}
    assert rows["setfit"] == ("3", "75.0 ± 5.0", "130", "–", "–", "–")
    # Gains of 2 and 1 points: t(0.975, 1) / 2 = 6.35.
    assert rows["CE"] == ("2", "74.0 ± 2.8", "–", "+1.50", "-4.85 to +7.85", "2")
    assert rows["frozen"][3:] == ("-5.00", "–", "1")


@pytest.fixture
def places(tmp_path):
    """Options of ``benchmarks.accuracy`` that name folders; a manifest, a model."""
    for name in ("n100-sample0/manifest.json", "model.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, "utf-8")
    folders = ["--data", "--encoder", "--published", "--to"]
    return ["accuracy", *(part for f in folders for part in (f, str(tmp_path)))]


def test_accuracy_ends_with_a_signature_of_its_files(
    tmp_path, places, monkeypatch, capsys
):
    found = {"valid_correct": 3, "correct": 7, "total": 10}
    monkeypatch.setattr(accuracy, "_ours", lambda *_: found)
    argv = [*places, "--methods", "frozen", "--set", "updates=9"]
    monkeypatch.setattr(sys, "argv", argv)
    assert accuracy.main() == 0
    line = capsys.readouterr().out.strip().rpartition("\n")[2].strip("`")
    parts = dict(part.split(":", 1) for part in line.split("|"))
    assert parts["benchmark"] == "accuracy"
    assert (parts["size"], parts["set"], parts["device"]) == ("100", "updates=9", "cpu")
    for name, file in (("data", "n100-sample0/manifest.json"), ("encoder", "model.pt")):
        assert parts[name] == sha256((tmp_path / file).read_bytes()).hexdigest()[:8]
    assert {"precision", "torch", "fairseq", "fairseq-scl", "commit"} <= parts.keys()
    monkeypatch.setattr(sys, "argv", [*argv[:-1], "updates=8"])
    with pytest.raises(InputError, match="set is updates=9, not updates=8: choose"):
        accuracy.main()
    (tmp_path / "model.pt").write_text("another encoder", "utf-8")
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(InputError, match="encoder is"):
        accuracy.main()


def test_frozen_features_are_read_like_those_that_are_trained(tmp_path):
    encoder, data = toy_encoder(), toy_data()
    arguments = Namespace(encoder=encoder, device="cpu", set=[])
    found = accuracy._ours("frozen", 0, data, arguments, tmp_path)
    by_mean, by_cls = (probed(encoder, data, pooling=p) for p in ("mean", "cls"))
    assert by_mean.valid_correct != by_cls.valid_correct
    assert found["valid_correct"] == by_mean.valid_correct


def test_accuracy_resumes_and_says_why_a_peer_failed(
    tmp_path, places, monkeypatch, capsys
):
    line = {"method": "frozen", "sample": 0, "correct": 7, "total": 10, "seconds": 1.0}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    monkeypatch.setattr(sys, "argv", [*places, "--methods", "frozen"])
    assert accuracy.main() == 0
    assert "| frozen | 1 | 70.0 | 1 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*places, "--methods", "setfit"])
    with pytest.raises(InputError, match="setfit failed"):
        accuracy.main()
