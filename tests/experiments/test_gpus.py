"""Sweeps on a machine with GPUs, none of which is there."""

import gc
import re
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import fairseq.trainer
import pytest
import torch

from fairseq_scl.cli import main
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import capacity, in_process, slurm, sweep
from fairseq_scl.experiments.capacity import (
    default_jobs,
    threads_each,
    worker_environments,
)
from fairseq_scl.experiments.command import command
from fairseq_scl.experiments.in_process import encoder_state
from fairseq_scl.experiments.results_folder import LOG, RECORD, finished_runs
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.tasks.sentence_prediction_scl import SentencePredictionSCLTask
from helpers.encoders import toy_encoder, toy_run
from helpers.gpus import pretend, run_with_gpus

ALL = "CUDA_VISIBLE_DEVICES"
SLURM = ("--executor", "slurm")


class Started(BaseException):  # not an error, which main would tell as a bug
    """A worker was about to start."""


@pytest.fixture
def started(monkeypatch):
    """Have workers not start, but raise; return the environments they would get."""
    environments = []

    def start(worker, environment):
        environments.append(environment)
        raise Started

    monkeypatch.setattr(sweep._Worker, "start", start)
    return environments


@pytest.mark.parametrize(
    ("count", "visible", "jobs", "expected"),
    [
        (8, None, 8, "01234567"),
        (8, None, 11, "01234567012"),
        (8, "6,2", 5, "62626"),
        (1, None, 3, "000"),
        (0, None, 3, ""),
    ],
)
def test_worker_k_gets_gpu_k_mod_n(monkeypatch, count, visible, jobs, expected):
    pretend(monkeypatch, count, visible=visible)
    monkeypatch.setattr("fairseq_scl.device._ask_a_process", lambda entries: ())
    assert worker_environments("cuda", jobs) == [{ALL: gpu} for gpu in expected]
    assert worker_environments("cpu", jobs) == [{ALL: ""}] * jobs


def test_jobs_fill_all_gpus_or_processors(monkeypatch):
    pretend(monkeypatch, 8)
    monkeypatch.setattr(capacity, "available_cores", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [default_jobs("cuda"), default_jobs("cuda", 3)] == [8, 24]
    assert [default_jobs("cpu"), threads_each(5), threads_each(50)] == [12, 2, 1]
    for given, jobs, threads in (("4", 3, 4), ("5,2", 2, 5), ("99", 1, 99)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert [default_jobs("cpu"), threads_each(2)] == [jobs, threads]
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert [default_jobs("cpu"), threads_each(6)] == [12, 2]


@pytest.mark.parametrize(
    ("words", "environment"),
    [(["--device", "cpu"], ""), (["--jobs", "1"], "0"), (["--precision", "bf16"], "0")],
)
def test_no_parent_asks_cuda(monkeypatch, toy, started, words, environment):
    pretend(monkeypatch, 4)
    with pytest.raises(Started):
        main([*toy, *words])
    assert started[0] == {ALL: environment}


def test_the_plan_is_printed_with_the_commands(monkeypatch, toy, capfd):
    pretend(monkeypatch, 8)
    assert main([*toy, "--dry-run", "--jobs-per-gpu", "2", "--precision", "tf32"]) == 0
    printed = capfd.readouterr()
    workers = [s for s in printed.err.splitlines() if s.startswith("worker ")]
    assert workers[::9] == [f"worker 0: {ALL}=0", f"worker 9: {ALL}=1"]
    assert len(workers) == 16
    for line in printed.out.splitlines():
        assert {"--tf32", "--distributed-world-size"} <= set(line.split())
        assert "--cpu" not in line.split()
    assert main([*toy, "--dry-run", "--device", "cpu", "--jobs", "3"]) == 0
    assert "3 workers on the CPU" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs-per-gpu", "0"], "--jobs-per-gpu is 0"),
        (["--device", "cpu", "--jobs-per-gpu", "2"], "--jobs-per-gpu is 2"),
        ([*SLURM, "--device", "cuda"], "--slurm-gpus is 0"),
        ([*SLURM, "--device", "cuda", "--slurm-option", "a=gpu"], "--slurm-gpus is 0"),
        ([*SLURM, "--precision", "fp16"], "the precision is 'fp16'"),
        ([*SLURM, "--slurm-minutes", "4"], "--slurm-minutes is 4: it must be at least"),
        ([*SLURM, "--slurm-cpus", "0"], "--slurm-cpus is 0: it must be at least 1"),
        ([*SLURM, "--slurm-gpus", "-1"], "--slurm-gpus is -1: it must be at least 0"),
        ([*SLURM, "--slurm-memory-gb", "0"], "--slurm-memory-gb is 0: it must be at"),
        ([*SLURM, "--slurm-option", "me"], "--slurm-option 'me': it must be KEY=VALUE"),
        (["--slurm-gpus", "0"], "--slurm-gpus is 0, which needs --executor slurm"),
        (["--slurm-option", "qos=low"], "--slurm-option is ['qos=low'], which needs"),
    ],
)
def test_options_that_do_not_fit_are_refused(monkeypatch, toy, refusal, words, message):
    pretend(monkeypatch, 2)
    assert message in refusal(*toy, *words)


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ([], "cpu"),
        (["--slurm-gpus", "2"], "cuda"),
        (["--slurm-option", "gres=gpu:h100:1"], "cuda"),
        (["--slurm-gpus", "2", "--device", "cpu"], "cpu"),
    ],
)
def test_slurm_trains_on_what_is_asked_for(monkeypatch, toy, capfd, words, device):
    pretend(monkeypatch, 0)
    assert main([*toy, "--executor", "slurm", "--dry-run", *words]) == 0
    is_cpu = ["--cpu" in line.split() for line in capfd.readouterr().out.splitlines()]
    assert set(is_cpu) == {device == "cpu"}


@pytest.mark.parametrize(
    ("device", "visible", "jobs"),
    [("cuda", "0", 3), ("cuda", "1,0", 6), ("cpu", "", 1)],
)
def test_a_job_uses_the_gpus_that_it_got(monkeypatch, tmp_path, device, visible, jobs):
    pretend(monkeypatch, 2, visible=visible)
    ignored = (signal.SIGUSR2, signal.SIGTERM)
    monkeypatch.setattr(slurm, "handle_signals", lambda: ignored)
    calls = []
    monkeypatch.setattr(slurm, "sweep", lambda *a, **k: calls.append((a, k)))
    runs = (toy_run(device=device),)
    slurm.Driver(runs, tmp_path, jobs_per_gpu=3)()
    assert calls == [((runs, tmp_path, jobs), {"wait": False, "ignored": ignored})]


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("fp32", set()),
        ("tf32", {"--tf32"}),
        ("bf16", {"--bf16"}),
        ("fp16", {"--fp16", "--fp16-init-scale", "--threshold-loss-scale"}),
    ],
)
def test_a_command_has_one_device_and_its_precision(tmp_path, precision, flags):
    argv = command(toy_run(device="cuda", precision=precision), tmp_path)
    assert argv[argv.index("--distributed-world-size") + 1] == "1"
    given = {f for f in argv if f.startswith("--")} - {"--fp16-scale-window"}
    assert {f for f in given if "16" in f or "tf32" in f or "threshold" in f} == flags


def test_an_fp16_run_that_overflows_in_each_update_ends(tmp_path, monkeypatch):
    """On the CPU, where fairseq computes in fp16 if it is told that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    run = toy_run(precision="fp16")
    state = {**encoder_state(str(run.encoder / "model.pt"))}
    weights = {
        name: weight * (1e6 if name.endswith("fc1.weight") else 1)
        for name, weight in state["model"].items()
    }
    state["model"] = weights
    monkeypatch.setattr(in_process, "encoder_state", lambda path: state)
    assert in_process.train_here(run, command(run, tmp_path), tmp_path) == 2
    last = (tmp_path / LOG).read_text().splitlines()[-1]
    assert re.search(r"after 0 updates \(50 overflows .*\): the model diverged;", last)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cuda", "precision": "fp16"}, True),
        ({"device": "cuda", "precision": "bf16"}, True),
        ({"device": "cuda", "precision": "fp32"}, False),
        ({"device": "cpu", "precision": "bf16"}, False),
        ({"device": "cuda", "precision": "fp16", "chunk": 4}, False),
        ({"device": "cuda", "precision": "fp16", "cuda_graphs": False}, False),
        ({"device": "cuda", "precision": "fp16", "head_pooling": "mean"}, False),
    ],
)
def test_cuda_graphs_are_used_where_they_work(tmp_path, settings, expected):
    run = toy_run(**{"cuda_graphs": True, **settings})
    assert ("--cuda-graphs" in command(run, tmp_path)) == expected


def test_a_table_runs_on_the_cpu_of_a_machine_with_eight_gpus(tmp_path, toy):
    words = ["--device", "cpu", "--smoke", "--jobs", "2", "--only", "loss=CE"]
    done = run_with_gpus(8, [*toy, *words])
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs are done" in done.stdout
    found = finished_runs(tmp_path / "results").values()
    assert {record.origin["gpu"] for record in found} == {None}


def test_a_worker_for_a_gpu_is_a_process_of_its_own_for_many_runs(tmp_path, toy):
    words = ["--device", "cuda", "--jobs", "1", "--only", "loss=CE,sample=0-1"]
    done = run_with_gpus(8, [*toy, *words], CUDA_VISIBLE_DEVICES="5,3")
    assert done.returncode == 0, done.stderr
    found = finished_runs(tmp_path / "results").values()
    gpus = [(record.origin["gpu"], record.origin["driver"]) for record in found]
    assert gpus == [("Fake GPU 5", "580.65")] * 2
    assert {record.settings["device"] for record in found} == {"cuda"}


def test_the_model_of_a_run_is_freed_before_the_next(tmp_path, monkeypatch):
    models, alive = [], []
    make = fairseq.trainer.Trainer.__init__

    def note(trainer, cfg, task, model, *more, **settings):
        alive.append([one() is not None for one in models])
        models.append(weakref.ref(model))
        make(trainer, cfg, task, model, *more, **settings)

    monkeypatch.setattr(fairseq.trainer.Trainer, "__init__", note)
    gc.disable()
    try:
        for number in range(3):
            run = toy_run(keep_checkpoint=False, updates=2, validations=1)
            run_training(run, tmp_path / str(number))
    finally:
        gc.enable()
    assert alive == [[], [False], [False, False]]


MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize(
    ("where", "error"), [*(("train_step", e) for e in MEMORY), ("valid_step", "CUDA")]
)
def test_a_run_that_is_out_of_memory_fails_with_one_sentence(
    tmp_path, monkeypatch, where, error
):
    step, calls = getattr(SentencePredictionSCLTask, where), []

    def short(*arguments, **settings):
        calls.append(1)
        if len(calls) != 1:
            raise MEMORY[error]
        return step(*arguments, **settings)

    monkeypatch.setattr(SentencePredictionSCLTask, where, short)
    run = toy_run(keep_checkpoint=False, batch_size=6, chunk=3)
    with pytest.raises(InputError) as raised:
        run_training(run, tmp_path / "run")
    text = str(raised.value)
    facts = ("out of memory", "--batch-size 6", "--chunk 3", "--max-positions 40")
    for word in (*facts, "--jobs", "--jobs-per-gpu"):
        assert word in text
    assert len(calls) == 2  # it is not tried again
    assert not (tmp_path / "run" / RECORD).exists()
    assert "Traceback" not in (tmp_path / "run" / LOG).read_text()


def test_another_error_stays_what_it_is(tmp_path, monkeypatch):
    def fail(*_arguments, **_settings):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(SentencePredictionSCLTask, "train_step", fail)
    with pytest.raises(InputError, match="RuntimeError: shapes do not fit"):
        run_training(toy_run(), tmp_path / "run")


FORKS = """
import sys
from pathlib import Path
import fairseq_scl.cli.run, torch
from fairseq_scl.experiments import sweep
from fairseq_scl.experiments.command import Run

def train(run, argv, folder):
    found = [torch.cuda._is_in_bad_fork(), torch.cuda.device_count()]
    (folder.parent.parent / "found").write_text(str(found))
    return 1

sweep.train_here = train
data, encoder, folder = map(Path, sys.argv[1:])
sweep.sweep([Run("one", data, encoder, {"scl_lambda": 0}, 0, 1, 1)], folder, 1)
"""


@pytest.mark.cuda_build
def test_forks_of_a_sweep_are_not_barred_from_cuda(tmp_path, samples):
    """With PyTorch for CUDA; a GPU is not needed."""
    sample = samples / "toy" / "n8-sample0"
    words = [str(sample), str(toy_encoder()), str(tmp_path)]
    subprocess.run([sys.executable, "-c", FORKS, *words], check=True)
    assert (Path(tmp_path) / "found").read_text() == "[False, 0]"
