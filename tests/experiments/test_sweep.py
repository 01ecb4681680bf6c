"""Sweeps: nothing lost, nothing twice, and the accuracies of the plain command."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from fairseq_scl.cli import main
from fairseq_scl.cli import run as cli_run
from fairseq_scl.cli.machine import Machine
from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import sweep
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.in_process import train_here
from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.results_folder import (
    BEST,
    ERROR,
    LOG,
    RECORD,
    claim,
    read_record,
)
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.experiments.statistics import best_validation, result_at_best
from fairseq_scl.experiments.tables import load_table
from fairseq_scl.tasks.checks import POSITIONS
from helpers.encoders import PIECES, make_bert, toy_encoder, toy_run, train_in_fork
from helpers.refusals import refused
from helpers.results import write_metrics
from helpers.tables import write_toy_table
from helpers.training import start_fast


@pytest.fixture
def toy(toy):
    """Return the arguments of ``fairseq-scl run`` for the toy table on the CPU."""
    return [*toy, "--device", "cpu"]


def records(folder):
    return sorted(path.parent.name for path in folder.glob(f"runs/*/{RECORD}"))


def starts(folder):
    """Count how often each run's training began, whatever became of it."""
    return Counter((folder / "starts").read_text().split())


def plan(tmp_path, samples):
    table = load_table(str(write_toy_table(tmp_path)))
    return planned_runs(table, samples, dict.fromkeys(table.losses, toy_encoder()))


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


def main_with_threads(argv):
    """Run ``fairseq-scl`` in this process with two threads per process."""
    del os.environ["OMP_NUM_THREADS"]
    torch.set_num_threads(2)
    sys.exit(main(argv))


def test_forks_with_several_threads_of_a_parent_that_has_computed(tmp_path, toy):
    """The parent checks an encoder that is large enough for parallel loops."""
    convert_encoder(make_bert(tmp_path / "b", intermediate_size=4096), tmp_path / "e")
    argv = [*toy, "--model", str(tmp_path / "e"), "--jobs", "1"]
    argv += ["--only", "loss=CE,sample=0"]
    done = start_fast(main_with_threads, argv).wait()
    assert "1 of 1 runs are done" in done.stdout, done.stderr[-2000:]


def test_workers_are_spawned_where_forks_are_not_supported(
    tmp_path, toy, capfd, monkeypatch
):
    monkeypatch.setattr(sweep.sys, "platform", "darwin")
    started = []
    real = sweep.multiprocessing.get_context
    monkeypatch.setattr(
        sweep.multiprocessing, "get_context", lambda m: started.append(m) or real(m)
    )
    assert main([*toy, "--jobs", "1", "--only", "loss=CE,sample=0"]) == 0
    assert "1 of 1 runs are done" in capfd.readouterr().out
    assert set(started) == {"spawn"}


def test_the_best_model_of_each_loss_is_trained_on(
    tmp_path, toy, samples, capfd, monkeypatch
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
    assert main([*export, str(tmp_path / "x")]) == 2
    assert "leaves more than one candidate for the best model" in capfd.readouterr().err
    assert main([*export, str(tmp_path / "x"), "--only", "loss=CE,n=9"]) == 2
    for checkpoint in results.glob("runs/*/checkpoint_best.pt"):
        checkpoint.unlink()
    assert main([*export, str(tmp_path / "x"), "--only", "loss=CE"]) == 2
    assert "train the run again with --keep-checkpoints" in capfd.readouterr().err


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
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(s.startswith("fairseq-train ") for s in lines)
    assert not (tmp_path / "results").exists()
    assert main([*toy, "--dry-run", "--only", "loss=CE", "--only", "sample=1"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_a_held_run_is_left_to_its_holder(tmp_path, samples):
    runs = plan(tmp_path, samples)[:2]
    with claim(tmp_path, runs[0].name) as mine:
        assert mine
        assert sweep.work(runs, tmp_path) == 1
    assert records(tmp_path) == [runs[1].name]
    assert sweep.work(runs, tmp_path) == 1
    assert len(records(tmp_path)) == 2


def test_a_worker_that_is_killed_leaves_an_error(tmp_path, samples, monkeypatch):
    def kill(run, argv, folder):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(sweep, "train_here", kill)
    tally = sweep.sweep(plan(tmp_path, samples)[:1], tmp_path, jobs=1)
    assert (tally.done, tally.failed) == (0, 1)
    error = next(tmp_path.glob(f"runs/*/{ERROR}")).read_text()
    assert "ended with signal 9" in error


def test_an_interrupt_kills_all_workers_before_waiting_for_any(
    tmp_path, samples, monkeypatch
):
    def interrupt(tally):
        if tally.running == 2:
            raise KeyboardInterrupt

    calls, children = [], set(multiprocessing.active_children())
    for name in ("kill", "join"):
        real = getattr(BaseProcess, name)

        def call(process, real=real, name=name):
            calls.append(name)
            real(process)

        monkeypatch.setattr(BaseProcess, name, call)
    monkeypatch.setattr(sweep, "train_here", lambda *args: time.sleep(60))
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(plan(tmp_path, samples), tmp_path, jobs=2, on_progress=interrupt)
    assert calls == ["kill", "kill", "join", "join"]
    assert set(multiprocessing.active_children()) == children


@pytest.fixture
def sigint_raises():
    """Undo what shells do for commands in the background, which ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_raises")
def test_an_interrupt_while_a_worker_starts_kills_it(tmp_path, samples, monkeypatch):
    real, before = BaseProcess.start, os.environ.copy()
    children = set(multiprocessing.active_children())

    def start(process):
        real(process)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr(BaseProcess, "start", start)
    monkeypatch.setattr(sweep, "train_here", lambda *args: time.sleep(60))
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(plan(tmp_path, samples), tmp_path, jobs=2)
    assert set(multiprocessing.active_children()) == children
    assert os.environ == before


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda: os._exit(7), "exit status 7"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal 9, possibly out of"),
    ],
)
def test_workers_that_die_before_their_first_run_end_the_sweep(
    tmp_path, samples, monkeypatch, end, how
):
    monkeypatch.setattr(sweep, "_work_alone", lambda *_: end())
    monkeypatch.setattr(sweep.time, "sleep", lambda seconds: None)
    with refused(
        f"3 workers in a row ended before their first run, the last with {how}"
    ):
        sweep.sweep(plan(tmp_path, samples), tmp_path, jobs=2)
    assert not list(tmp_path.rglob(ERROR))


def test_the_runs_of_a_large_table_fit_into_a_pipe():
    table = load_table("table2")
    folders = dict.fromkeys(table.losses, Path("/home/user/encoders/roberta"))
    runs = planned_runs(table, Path("/home/user/data-bin"), folders)
    handed = pickle.dumps(sweep._Handed(runs))
    assert len(runs) == 1500
    assert len(handed) < 65536 / 2
    assert pickle.loads(handed) == runs


def test_a_lock_that_cannot_be_opened_ends_the_sweep(tmp_path, samples):
    runs = plan(tmp_path, samples)
    (tmp_path / "locks" / f"{runs[1].name}.lock").mkdir(parents=True)
    with pytest.raises(InputError, match=f"^cannot lock {tmp_path}/locks"):
        sweep.sweep(runs[1:], tmp_path, jobs=2)


def test_a_full_disk_ends_the_sweep(tmp_path, samples, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sweep, "train_here", fail)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        sweep.sweep(plan(tmp_path, samples), tmp_path, jobs=2)
    monkeypatch.undo()
    assert not records(tmp_path)
    assert not list(tmp_path.rglob(ERROR))  # to be done when there is space


def test_a_folder_of_others_is_not_cleared_for_a_run(tmp_path):
    run = toy_run()
    (tmp_path / "run" / "thesis").mkdir(parents=True)
    with refused("run contains thesis, which no command wrote"):
        run_training(run, tmp_path / "run", train=train_in_fork)
    assert os.listdir(tmp_path / "run") == ["thesis"]


def test_results_without_a_table_are_not_overwritten(tmp_path, toy, capfd):
    (tmp_path / "results" / "runs" / "mine").mkdir(parents=True)
    assert main(toy) == 2
    assert f"{tmp_path}/results holds runs or locks but lacks" in capfd.readouterr().err
    assert os.listdir(tmp_path / "results") == ["runs"]


def test_a_refused_sweep_leaves_the_table_of_finished_runs(tmp_path, toy, samples, run):
    folder, one = tmp_path / "results", ["--only", "loss=CE,sample=0"]
    assert run(*toy, *one)[0] == 0
    kept = (folder / "table.json").read_bytes()
    shutil.copytree(samples / "toy/n8-sample1", tmp_path / "data/toy/n8-sample0")
    status, _, error = run(*toy, *one, "--data", tmp_path / "data")
    assert status == 2
    assert "toy-n8-CE-sample0 holds a run with other settings (data)" in error
    assert (folder / "table.json").read_bytes() == kept


def test_changed_data_and_encoders_are_refused(tmp_path, toy, samples, capfd):
    """Flip one byte of each file that training reads, one at a time."""
    sample = shutil.copytree(samples, tmp_path / "data") / "toy" / "n8-sample1"
    encoder = shutil.copytree(toy_encoder(), tmp_path / "encoder")
    own = [*toy, "--data", str(tmp_path / "data"), "--model", str(encoder)]
    changed = [sample / "input0" / "train.bin", sample / "label" / "test.idx"]
    changed += [sample / "label_map.json", encoder / "dict.txt"]
    for path in changed:
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        assert main(own) == 2
        assert f"error: {path} was changed" in capfd.readouterr().err
        path.write_bytes(whole)
    assert not (tmp_path / "results").exists()


def sweep_slowly(data, encoder, folder, seconds):
    """Sweep in this process, with a training that only takes its time."""

    def train(run, argv, folder):
        with open(folder.parent.parent / "starts", "a") as file:
            file.write(run.name + "\n")
        time.sleep(seconds)
        write_metrics(folder)
        return 0

    sweep.train_here = train
    loss = {"scl_lambda": 0}
    runs = [Run(f"run{i}", data, encoder, loss, i, 1, 1) for i in range(8)]
    sweep.sweep(runs, folder, jobs=2)


def drive(samples, folder, seconds):
    """Start a sweep in a process of its own."""
    folder.mkdir(exist_ok=True)
    sample = samples / "toy" / "n8-sample0"
    return start_fast(sweep_slowly, sample, toy_encoder(), folder, seconds)


def test_two_drivers_do_nothing_twice(tmp_path, samples):
    drivers = [drive(samples, tmp_path / "r", 0.1) for _ in range(2)]
    assert [driver.wait().returncode for driver in drivers] == [0, 0]
    assert len(records(tmp_path / "r")) == 8
    assert set(starts(tmp_path / "r").values()) == {1}


def test_workers_end_with_a_killed_driver_and_the_sweep_resumes(tmp_path, samples):
    folder = tmp_path / "r"
    driver = drive(samples, folder, 0.3)
    while len(records(folder)) < 3:
        time.sleep(0.05)
        assert driver.process.is_alive()
    driver.process.kill()
    driver.wait()
    time.sleep(1)  # its workers notice
    done = records(folder)
    time.sleep(1)
    assert records(folder) == done
    assert len(done) < 8
    before = starts(folder)
    assert drive(samples, folder, 0.0).wait().returncode == 0
    assert len(records(folder)) == 8
    again = starts(folder) - before
    assert not set(again) & set(done)  # what had finished was not repeated
    assert all(json.loads(p.read_text()) for p in folder.glob(f"runs/*/{RECORD}"))


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


def test_a_loss_without_a_model_is_refused(tmp_path, samples, capfd):
    table, encoder = write_toy_table(tmp_path), toy_encoder()
    argv = ["run", str(table), "--data", str(samples), "--model", f"CE={encoder}"]
    assert main([*argv, "--results", str(tmp_path / "r")]) == 2
    assert "--model is missing for CE+SCL" in capfd.readouterr().err


def test_data_of_another_vocabulary_is_refused(tmp_path, toy, capfd):
    bert = make_bert(tmp_path / "bert", (*PIECES, "new"))
    convert_encoder(bert, tmp_path / "other")
    assert main([*toy, "--model", str(tmp_path / "other")]) == 2
    error = capfd.readouterr().err
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
