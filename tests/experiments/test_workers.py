"""Workers of a sweep: how they start, share the runs, fail, die and are killed."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq_scl.cli import main
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import sweep
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.results_folder import ERROR, RECORD, claim
from fairseq_scl.experiments.tables import load_table
from helpers.encoders import make_bert, toy_encoder
from helpers.refusals import refused
from helpers.results import records, write_metrics
from helpers.tables import write_toy_table
from helpers.training import start_fast


def starts(folder):
    """Count how often each run's training began, whatever became of it."""
    return Counter((folder / "starts").read_text().split())


def plan(tmp_path, samples):
    table = load_table(str(write_toy_table(tmp_path)))
    return planned_runs(table, samples, dict.fromkeys(table.losses, toy_encoder()))


def main_with_threads(argv):
    """Run ``fairseq-scl`` in this process with two threads per process."""
    del os.environ["OMP_NUM_THREADS"]
    torch.set_num_threads(2)
    sys.exit(main(argv))


def test_forks_with_several_threads_of_a_parent_that_has_computed(tmp_path, toy):
    """The parent checks an encoder that is large enough for parallel loops."""
    convert_encoder(make_bert(tmp_path / "b", intermediate_size=4096), tmp_path / "e")
    argv = [*toy, "--model", f"CE={tmp_path / 'e'}", "--jobs", "1"]
    argv += ["--only", "loss=CE,sample=0", "--device", "cpu"]
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
    argv = [*toy, "--device", "cpu", "--jobs", "1", "--only", "loss=CE,sample=0"]
    assert main(argv) == 0
    assert "1 of 1 runs are done" in capfd.readouterr().out
    assert set(started) == {"spawn"}


def test_a_killed_worker_s_run_is_left_to_who_began_it_again(
    tmp_path, samples, monkeypatch
):
    run = plan(tmp_path, samples)[0]
    worker = sweep._Worker([run], tmp_path, 1, ())
    worker._number.value = 0
    killed = SimpleNamespace(exitcode=-signal.SIGKILL)
    monkeypatch.setattr(worker, "process", killed)
    error = tmp_path / "runs" / run.name / ERROR

    def sleep(_):
        """Look as an idle sweep does, which would begin a free run at once."""
        with claim(tmp_path, run.name) as free:
            assert not free

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    with claim(tmp_path, run.name):
        assert not worker.ended([run], tmp_path)
    assert not error.exists()
    assert not worker.ended([run], tmp_path)
    assert "ended with signal 9" in error.read_text("utf-8")


def test_a_held_run_is_left_to_its_holder(tmp_path, samples):
    runs = plan(tmp_path, samples)[:2]
    with claim(tmp_path, runs[0].name) as mine:
        assert mine
        assert sweep.work(runs, tmp_path)
    assert records(tmp_path) == [runs[1].name]
    assert sweep.work(runs, tmp_path)
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
