"""Sweeps: nothing lost, nothing twice, and the accuracies of the plain command."""

import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from fairseq_scl.cli import main
from fairseq_scl.cli import run as cli_run
from fairseq_scl.cli.machine import Machine
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.experiments import sweep
from fairseq_scl.experiments.in_process import train_here
from fairseq_scl.experiments.results_folder import (
    BEST,
    ERROR,
    LOG,
    read_record,
)
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.experiments.statistics import best_validation, result_at_best
from fairseq_scl.tasks.checks import POSITIONS
from helpers.encoders import PIECES, make_bert, toy_encoder, toy_run, train_in_fork
from helpers.refusals import refused
from helpers.results import records
from helpers.tables import write_toy_table


@pytest.fixture
def toy(toy):
    """Return the arguments of ``fairseq-scl run`` for the toy table on the CPU."""
    return [*toy, "--device", "cpu"]


OBJECTIVES = {
    "CE": {"scl_lambda": 0.0},
    "CE+SCL": {"scl_lambda": 0.9},
    "CAPCORT-MLP": {
        **{"criterion": "sentence_prediction_capcort", "scl_lambda": 0.0},
        **{"capcort_lambda": 0.1, "capcort_map": "mlp"},
    },
    "ACL-Embed+Grad": {
        **{"criterion": "sentence_prediction_acl", "scl_lambda": 0.9},
        **{"acl_embed": True, "acl_grad": True},
    },
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_in_process_runs_equal_the_printed_command(tmp_path, objective):
    loss = {"criterion": "sentence_prediction_scl", **OBJECTIVES[objective]}
    run = toy_run(loss=loss, updates=15, validations=5, keep_checkpoint=False)
    printed = run_training(run, tmp_path / "printed", train_in_fork)
    here = run_training(run, tmp_path / "here")
    assert here.valid == printed.valid
    assert len(printed.test) == len(printed.valid)
    assert len(here.test) == 1
    assert result_at_best(here) == result_at_best(printed)
    assert here.test[0].update == best_validation(printed.valid).update


def test_budgets_that_do_not_divide_have_no_further_validation(tmp_path):
    run = toy_run(updates=10, validations=4, keep_checkpoint=False)
    printed = run_training(run, tmp_path / "printed", train_in_fork)
    here = run_training(run, tmp_path / "here")
    assert here.valid == printed.valid
    assert [one.update for one in here.valid] == [3, 6, 9, 10]


def test_an_in_process_run_leaves_this_process_as_it_was(tmp_path, capfd):
    argv = sys.argv[:]
    run = toy_run(keep_checkpoint=True)
    run_training(run, tmp_path / "run")
    assert sys.argv == argv
    assert capfd.readouterr().out == ""
    assert (tmp_path / "run" / BEST).exists()
    log = (tmp_path / "run" / LOG).read_text()
    assert "done training" in log
    assert log.count("| loss ") >= 3  # of training and validations
    assert not re.search("[Hh]ydra|tensorboard|_name|TransformerSentence", log)


def test_a_run_truncates_to_fewer_positions_than_the_encoder_has(tmp_path):
    run = toy_run(max_positions=4, updates=2)
    run_training(run, tmp_path)
    model = load_checkpoint(tmp_path / BEST)["model"]
    assert len(model[POSITIONS]) == 4 + 2


def test_a_table_is_run_to_its_end_and_not_again(tmp_path, toy, capfd):
    assert main([*toy, "--jobs", "2"]) == 0
    told = capfd.readouterr()
    assert "9 of 9 runs are done" in told.out
    assert re.search(r"latest=\d+\.\d% of toy-n8-CE", told.err)
    folder = tmp_path / "results"
    times = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/*")}
    assert len(records(folder)) == 9
    assert not list(folder.glob("runs/*/*.pt"))
    record = read_record(folder / "runs" / "toy-n8-CE-sample1")
    assert record.settings["cell"] == {
        **{"task": "toy", "n": 8, "batch_size": 8, "loss": "CE", "seed": 1}
    }
    assert record.origin["classes"]["test"] == {"negative": 4, "positive": 4}
    assert main(toy) == 0
    assert times == {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/*")}


def test_the_best_model_of_each_loss_is_trained_on(
    tmp_path, toy, samples, capfd, refusal, monkeypatch
):
    monkeypatch.setenv("FAIRSEQ_SCL_LOG", "all")  # fairseq tells what it loads
    only = ["--only", "lambda=0.9,sample=0-1"]
    assert main([*toy, *only, "--keep-checkpoints"]) == 0
    results, models = tmp_path / "results", []
    export = ["export", "--results", str(results), "--to"]
    for loss in ("CE", "CE+SCL"):
        model = tmp_path / loss
        assert main([*export, str(model), "--only", f"loss={loss}"]) == 0
        models += ["--model", f"{loss}={model}"]
    assert "the best run is toy-n8-CE+SCL-lambda0.9-tau0.3-sample" in (
        capfd.readouterr().out
    )
    other = [str(tmp_path / "hf"), "--only", "loss=CE", "--format", "huggingface"]
    assert main([*export, *other]) == 0
    card = (tmp_path / "hf" / "README.md").read_text("utf-8")
    assert re.search(r"accuracy on the test set: [\d.]+% \(\d of 8\)", card)
    assert "|lambda:0.0|" in card
    assert "seed" in card
    argv = ["run", toy[1], "--data", str(samples), *models, "--device", "cpu"]
    argv += ["--results", str(tmp_path / "further"), "--only", "sample=0,lambda=0.5"]
    assert main(argv) == 0
    log = next((tmp_path / "further").glob(f"runs/*CE-sample0/{LOG}")).read_text()
    assert "Overwriting classification_heads" not in log  # with a fresh one
    fresh = [*export, str(tmp_path / "fresh"), "--only", "loss=CE", "--encoder-only"]
    assert main(fresh) == 0
    argv[argv.index(models[1])] = f"CE={tmp_path / 'fresh'}"
    argv[argv.index("--results") + 1] = str(tmp_path / "from fresh")
    argv[-1] = "sample=0,loss=CE"
    assert main(argv) == 0
    log = next((tmp_path / "from fresh").glob(f"runs/*CE-sample0/{LOG}")).read_text()
    assert "Overwriting classification_heads" in log
    refused = partial(refusal, *export, tmp_path / "x")
    assert "leaves more than one candidate for the best model" in refused()
    assert "n is one of 8" in refused("--only", "loss=CE,n=9")
    for checkpoint in results.glob("runs/*/checkpoint_best.pt"):
        checkpoint.unlink()
    assert "again, with --keep-checkpoints" in refused("--only", "loss=CE")


def test_a_failed_run_is_reported_and_retried_on_request(
    tmp_path, toy, capfd, monkeypatch
):
    def fail(run, argv, folder):
        if run.seed == 1:
            raise OSError("the disk is full")
        return train_here(run, argv, folder)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train_here", fail)
        assert main([*toy, "--only", "loss=CE"]) == 1
    out = capfd.readouterr().out
    assert "2 of 3 runs are done" in out
    assert "failed: toy-n8-CE-sample1, see" in out
    error = tmp_path / "results" / "runs" / "toy-n8-CE-sample1" / ERROR
    assert error.read_text().rstrip().endswith("OSError: the disk is full")
    assert main([*toy, "--only", "loss=CE"]) == 1  # not tried again by itself
    assert main([*toy, "--only", "loss=CE", "--retry-failed"]) == 0
    assert len(records(tmp_path / "results")) == 3


def test_dry_run_prints_commands_and_does_nothing(tmp_path, toy, capfd):
    assert main([*toy, "--dry-run"]) == 0
    out, error = capfd.readouterr()
    lines = out.splitlines()
    assert len(lines) == 9
    assert "note: max_positions is lowered from 512 to 40" in error
    assert all(s.startswith("fairseq-train ") for s in lines)
    assert not (tmp_path / "results").exists()
    assert main([*toy, "--dry-run", "--only", "loss=CE", "--only", "sample=1"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_a_folder_of_others_is_not_cleared_for_a_run(tmp_path):
    run = toy_run()
    (tmp_path / "run" / "thesis").mkdir(parents=True)
    with refused("run contains thesis, which no command wrote"):
        run_training(run, tmp_path / "run", train=train_in_fork)
    assert os.listdir(tmp_path / "run") == ["thesis"]


def test_results_without_a_table_are_not_overwritten(tmp_path, toy, refusal):
    (tmp_path / "results" / "runs" / "mine").mkdir(parents=True)
    assert f"{tmp_path}/results holds runs or locks but lacks" in refusal(*toy)
    assert os.listdir(tmp_path / "results") == ["runs"]


def test_a_refused_sweep_leaves_the_table_of_finished_runs(
    tmp_path, toy, samples, run, refusal
):
    folder, one = tmp_path / "results", ["--only", "loss=CE,sample=0"]
    assert run(*toy, *one)[0] == 0
    kept = (folder / "table.json").read_bytes()
    shutil.copytree(samples / "toy/n8-sample1", tmp_path / "data/toy/n8-sample0")
    error = refusal(*toy, *one, "--data", tmp_path / "data")
    assert "toy-n8-CE-sample0 holds a run with other settings (data)" in error
    assert (folder / "table.json").read_bytes() == kept


def test_changed_data_and_encoders_are_refused(tmp_path, toy, samples, refusal):
    """Flip one byte of each file that training reads, one at a time."""
    sample = shutil.copytree(samples, tmp_path / "data") / "toy" / "n8-sample1"
    encoder = shutil.copytree(toy_encoder(), tmp_path / "encoder")
    own = [*toy, "--data", str(tmp_path / "data"), "--model", f"CE={encoder}"]
    changed = [sample / "input0" / "train.bin", sample / "label" / "test.idx"]
    changed += [sample / "label_map.json", encoder / "dict.txt"]
    for path in changed:
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        assert f"error: {path} was changed" in refusal(*own)
        path.write_bytes(whole)
    assert not (tmp_path / "results").exists()


def test_data_is_checked_before_anything_starts(tmp_path, toy, refusal):
    refused = partial(refusal, *toy)
    missing = tmp_path / "toy" / "n8-sample0"
    assert f"there is no data folder {missing}" in refused("--data", tmp_path)
    assert "matches nothing" in refused("--only", "task=other")
    assert "--jobs is 0: it must be at least 1" in refused("--jobs", "0")
    error = refused("--model", "SCL=x")
    assert "'SCL' is not one of the losses of toy" in error
    assert not (tmp_path / "results").exists()


def test_progress_of_a_resumed_sweep_is_printed_per_run(monkeypatch, capfd, tmp_path):
    def swept(runs, folder, jobs, show):
        for done in (29, 29, 30, 31):
            show(sweep.Tally(75, done, 0, 2))

    monkeypatch.setattr(cli_run, "sweep", swept)
    monkeypatch.setattr(cli_run, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(cli_run, "_latest_accuracy", lambda *_: {})
    cli_run._follow([None] * 75, tmp_path, Machine("cpu", 1))
    told = capfd.readouterr().err
    assert [f"{n}/75" in told for n in (29, 30, 31)] == [True] * 3


def test_a_loss_without_a_model_is_refused(tmp_path, samples, refusal):
    argv = ["run", write_toy_table(tmp_path), "--data", samples]
    error = refusal(*argv, "--model", f"CE={toy_encoder()}")
    assert "--model is missing for CE+SCL" in error


def test_the_model_of_a_loss_counts_in_any_order(tmp_path, samples, run):
    other = tmp_path / "other"
    other.symlink_to(toy_encoder(), target_is_directory=True)
    argv = ["run", write_toy_table(tmp_path), "--data", samples, "--dry-run"]
    argv += ["--device", "cpu", "--model"]
    for models in ((f"CE={other}", toy_encoder()), (toy_encoder(), f"CE={other}")):
        status, printed, _ = run(*argv, models[0], "--model", models[1])
        assert status == 0
        assert printed.count(f"{other}/model.pt") == 3  # of 9 runs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "."], "--model '.': one for all losses is given twice"),
        (["--model", "CE={}"] * 2, "CE is given twice"),
        (["--set", "updates=2", "--set", "updates=3"], "updates is given twice"),
        (["--set", "updates=2", "--set", "epochs=3"], "with --set epochs"),
        (
            ["--executor", "slurm", *["--slurm-option", "qos=low"] * 2],
            "--slurm-option 'qos=low': qos is given twice",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(toy, refusal, words, said):
    assert said in refusal(*toy, *[word.format(toy_encoder()) for word in words])


def test_data_of_another_vocabulary_is_refused(tmp_path, toy, refusal):
    bert = make_bert(tmp_path / "bert", (*PIECES, "new"))
    convert_encoder(bert, tmp_path / "other")
    error = refusal(*toy, "--model", f"CE={tmp_path / 'other'}")
    assert "n8-sample0 was prepared with a different vocabulary" in error


@pytest.mark.parametrize("name", ["lr=1e-5/enc", "=", "CE=other"])
def test_a_folder_with_an_equals_sign_is_a_folder_unless_a_loss_is_named(
    tmp_path, samples, capfd, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    encoder = Path(name)
    encoder.parent.mkdir(exist_ok=True)
    encoder.symlink_to(toy_encoder(), target_is_directory=True)
    argv = ["run", str(write_toy_table(tmp_path)), "--data", str(samples), "--dry-run"]
    status = main([*argv, "--device", "cpu", "--model", name])
    printed = capfd.readouterr()
    if name == "CE=other":
        assert status == 2
        assert "--model is 'other': there is no such folder" in printed.err
    else:
        assert status == 0
        assert printed.out.count(f"{tmp_path / name}/model.pt") == 9
