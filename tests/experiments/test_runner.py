"""Runs: the command, the record, and what a run that fails or is stopped leaves."""

import argparse
import os
import shlex
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch

import fairseq_scl
from fairseq_scl.data.binarize import LABEL_MAP, MANIFEST
from fairseq_scl.data.files import sha256
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.command import RECIPE, command
from fairseq_scl.experiments.results_folder import (
    BEST,
    ERROR,
    LOG,
    METRICS,
    RECORD,
    read_metrics,
    read_record,
)
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.experiments.statistics import best_validation
from helpers import ROOT
from helpers.encoders import toy_data, toy_encoder, toy_run, trained
from helpers.refusals import refused
from helpers.results import write_metrics


class Training:
    """Stands for a training: writes a log and maybe metrics; notes the commands."""

    def __init__(self, status=0, log="", updates=()):
        self.status, self.log, self.updates, self.commands = status, log, updates, []

    def __call__(self, run, argv, folder):
        self.commands.append(argv)
        (folder / LOG).write_text(self.log)
        if self.updates:
            write_metrics(folder, self.updates)
            for name in (BEST, "checkpoint_1_30.pt"):
                (folder / name).write_text("weights")
        return self.status


def flag(argv, name):
    return argv[argv.index(name) + 1]


def files(folder):
    return sorted(os.listdir(folder))


def test_command_holds_every_flag_once(tmp_path):
    for device in ("cpu", "cuda"):
        argv = command(toy_run(device=device), tmp_path)
        flags = Counter(word for word in argv if word.startswith("--"))
        assert {name: n for name, n in flags.items() if n > 1} == {}
        assert ("--cpu" in flags) == (device == "cpu")


def test_command_is_the_runs(tmp_path):
    run = toy_run(seed=7, scl_lambda=0.5, batching="balanced", updates=100)
    argv = command(run, tmp_path)
    assert argv[:2] == ["fairseq-train", str(toy_data())]
    assert flag(argv, "--user-dir") == os.path.dirname(fairseq_scl.__file__)
    for name, value in (
        ("--restore-file", toy_encoder() / "model.pt"),
        ("--save-dir", tmp_path),
        ("--metrics-file", tmp_path / METRICS),
        ("--seed", 7),
        ("--scl-lambda", 0.5),
        ("--scl-temperature", 0.3),
        ("--batching", "balanced"),
        ("--max-update", 100),
        ("--total-num-update", 100),
        ("--warmup-updates", 6),
        ("--validate-interval-updates", 50),
        ("--num-classes", 2),
        ("--lr", 0.01),
        ("--dropout", 0.1),
        ("--attention-dropout", 0.1),
    ):
        assert flag(argv, name) == str(value)
    assert {"--scl-temperature", "--scl-lambda"} <= set(argv)
    assert "--temperature" not in argv


@pytest.mark.parametrize("validations", range(1, 11))
def test_there_are_never_more_validations_than_asked_for(validations):
    for updates in range(validations, 200):
        run = toy_run(updates=updates, validations=validations)
        every = run.validate_every
        at = {*range(every, updates, every), updates}
        assert len(at) <= validations
        if updates % validations == 0:
            assert (every, len(at)) == (updates // validations, validations)
        elif updates >= validations**2:
            assert len(at) == validations


@pytest.mark.parametrize("page", ["README.md", "scripts/train.sh"])
def test_the_recipe_is_that_of_the_commands_that_are_written_out(page):
    text = (ROOT / page).read_text("utf-8").replace('"', "")
    for name, value in zip(RECIPE[::2], RECIPE[1::2], strict=True):
        # A fused Adam is the same formula in one pass over memory.
        assert f"{name} {value.removeprefix('fused_')} " in text


def test_architecture_is_the_converted_encoders():
    flags = architecture_flags(toy_encoder(), 512)
    assert flags[:2] == ["--arch", "roberta_bert"]
    assert flag(flags, "--encoder-layers") == "2"
    assert flag(flags, "--encoder-embed-dim") == "16"
    assert flag(flags, "--layer-norm-eps") == "1e-12"
    assert flag(flags, "--max-positions") == "40"
    assert flag(architecture_flags(toy_encoder(), 24), "--max-positions") == "24"


def test_architecture_of_a_roberta_as_fairseq_publishes_it(tmp_path):
    name = "decoder.sentence_encoder.embed_positions.weight"
    state = {
        "args": argparse.Namespace(arch="roberta_large", encoder_layers=1),
        "model": {name: torch.zeros(514, 2)},
    }
    torch.save(state, tmp_path / "model.pt")
    assert architecture_flags(tmp_path, 512) == [
        *["--arch", "roberta_large", "--encoder-layers", "1"],
        *["--max-positions", "512"],
    ]


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"args": argparse.Namespace(arch="transformer"), "model": {}}, "transformer"),
        ({"args": None, "cfg": {"model": {"_name": "bart_large"}}}, "bart_large"),
        ({"model": {}}, "None"),
        (
            {"args": argparse.Namespace(arch="roberta_base"), "model": {}},
            "roberta_base",
        ),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path, state, name):
    torch.save(state, tmp_path / "model.pt")
    with refused(f"{tmp_path / 'model.pt'} ", repr(name)):
        architecture_flags(tmp_path, 512)


def test_a_missing_encoder_or_data_folder_is_named_before_anything_is_written(tmp_path):
    nothing = tmp_path / "nothing here"
    for settings, file in (
        ({"encoder": nothing}, nothing / "model.pt"),
        ({"data": nothing}, nothing / LABEL_MAP),
    ):
        with pytest.raises(InputError, match=rf"^missing .*{file}$"):
            run_training(toy_run(**settings), tmp_path / "run")
    assert files(tmp_path) == []


def test_a_real_run_leaves_its_record_log_metrics_and_best_checkpoint():
    run, folder, record = trained()
    assert " " in str(folder)
    assert "'" in str(folder)
    assert files(folder) == sorted([BEST, LOG, METRICS, RECORD])
    assert read_record(folder) == record
    assert record.settings["scl_lambda"] == run.loss["scl_lambda"]
    assert record.argv == command(run, folder)
    assert record.origin["sha256"] == {
        "data": sha256(run.data / MANIFEST),
        "encoder": sha256(run.encoder / "model.pt"),
    }
    assert 0 < record.seconds < 600
    first_line = (folder / LOG).read_text("utf-8").splitlines()[0]
    assert shlex.split(first_line) == record.argv


def test_a_real_run_validates_along_the_way_and_tests_the_best():
    _, folder, record = trained()
    assert [v.update for v in record.valid] == [15, 30]
    assert [v.update for v in record.test] == [best_validation(record.valid).update]
    assert all(v.total == 8 for v in record.valid + record.test)
    assert {"valid": record.valid, "test": record.test} == read_metrics(
        folder / METRICS
    )


def test_a_real_run_keeps_the_checkpoint_of_its_best_validation():
    _, folder, record = trained()
    state = torch.load(folder / BEST, weights_only=False)
    kept = state["optimizer_history"][-1]["num_updates"]
    assert kept == best_validation(record.valid).update
    assert not state.get("last_optimizer_state")


def test_a_finished_run_is_not_repeated_even_if_it_moved(tmp_path):
    train = Training()
    run, folder, record = trained()
    moved = replace(
        run,
        data=shutil.copytree(run.data, tmp_path / "data"),
        encoder=shutil.copytree(run.encoder, tmp_path / "encoder"),
        keep_checkpoint=not run.keep_checkpoint,
    )
    again = run_training(moved, shutil.copytree(folder, tmp_path / "run"), train)
    assert again == record
    assert train.commands == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"precision": "bf16"}, "precision"),
        ({"chunk": 2}, "chunk"),
        ({"scl_lambda": 0.1, "updates": 31}, "updates, scl_lambda"),
        ({"data": True}, "data"),
    ],
)
def test_the_record_of_another_run_is_refused(change, named):
    _, folder, _ = trained()
    if "data" in change:
        change = {"data": toy_data(pairs=True)}
    train = Training()
    with refused(f"{folder} holds a run with other settings ({named})"):
        run_training(toy_run(**change), folder, train)
    assert train.commands == []


def test_a_failing_training_leaves_its_error_and_no_record(tmp_path):
    folder = tmp_path / "run"
    train = Training(3, "ValueError: the very last line\n \n")
    with refused("exit status 3", folder / LOG, "ValueError: the very last line"):
        run_training(toy_run(), folder, train)
    assert files(folder) == sorted([ERROR, LOG])
    written = (folder / ERROR).read_text("utf-8")
    assert "exit status 3" in written
    assert "ValueError: the very last line" in written
    assert shlex.join(command(toy_run(), folder)) in written
    assert read_record(folder) is None


def test_a_training_without_validations_has_failed_too(tmp_path):
    train = Training(log="nothing to validate")
    with pytest.raises(InputError, match=r"exit status 0, .*: nothing to validate"):
        run_training(toy_run(), tmp_path / "run", train)
    assert ERROR in files(tmp_path / "run")


def test_after_a_failure_the_run_starts_afresh(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="exit status 1"):
        run_training(toy_run(), folder, Training(1, updates=(15, 30)))
    record = run_training(toy_run(), folder, Training(updates=(15, 30)))
    assert [v.update for v in record.valid] == [15, 30]
    assert ERROR not in files(folder)
    assert len(read_metrics(folder / METRICS)["test"]) == 2


@pytest.mark.parametrize("keep", [True, False])
def test_only_the_best_checkpoint_is_kept_if_any(tmp_path, keep):
    run = toy_run(keep_checkpoint=keep)
    run_training(run, tmp_path / "run", Training(updates=(15, 30)))
    kept = [name for name in files(tmp_path / "run") if name.endswith(".pt")]
    assert kept == ([BEST] if keep else [])
