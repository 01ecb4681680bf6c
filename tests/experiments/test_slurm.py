"""Sweeps on Slurm, with scripts that stand for Slurm; tests/slurm has a real one."""

import os
import shlex
import signal
import stat
import sys
import time

import pytest

from fairseq_scl.cli import main
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import slurm
from fairseq_scl.experiments.plan import planned_runs
from fairseq_scl.experiments.results_folder import (
    ERROR,
    RECORD,
    claim,
    is_done,
    run_folder,
)
from fairseq_scl.experiments.slurm import Driver, SlurmError, SlurmSettings
from fairseq_scl.experiments.tables import load_table
from helpers.encoders import toy_encoder
from helpers.tables import write_toy_table

SBATCH = 'cat "$1" >> "$FAKE/scripts"; echo x >> "$FAKE/submitted"; echo "job 7"'
SQUEUE = 'echo "$@" >> "$FAKE/asked"; cat "$FAKE/states" 2>/dev/null || true'


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put programs that stand for Slurm's first on the path; return their folder."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_LOOKS", 0.01)
    for name, text in (("srun", ""), ("sbatch", SBATCH), ("squeue", SQUEUE)):
        write_program(folder / name, text)
    return folder


def write_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def runs(tmp_path, samples):
    table = load_table(str(write_toy_table(tmp_path)))
    return planned_runs(table, samples, dict.fromkeys(table.losses, toy_encoder()))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "it's a folder"


def finish(folder, runs):
    for run in runs:
        record = run_folder(folder, run.name) / RECORD
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text("{}")


def sweep_until(runs, folder, jobs, looks):
    """Sweep with jobs until all runs are finished at a look; return the tallies."""
    tallies = []

    def look(tally):
        tallies.append(tally)
        if len(tallies) == looks:
            finish(folder, runs)

    slurm.sweep_on_slurm(runs, folder, SlurmSettings(jobs=jobs), look)
    return tallies


def submissions(fake):
    path = fake / "submitted"
    return len(path.read_text().split()) if path.exists() else 0


def test_the_script_passes_its_settings_on(fake, folder, runs):
    settings = SlurmSettings(
        jobs=3,
        partition="gpu",
        minutes=60,
        cpus=4,
        gpus=1,
        memory_gb=16,
        setup=("module load cuda",),
        options={"account": "me", "qos": "low"},
    )
    slurm.submit(Driver(tuple(runs), folder), 3, settings)
    lines = (fake / "scripts").read_text().splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in lines if "#SBATCH" in line}
    assert flags >= {"array=0-2%3", "partition=gpu", "time=60", "cpus-per-task=4"}
    assert flags >= {"gpus-per-node=1", "mem=16GB", "account=me", "qos=low", "requeue"}
    assert flags >= {"signal=USR2@90", f"job-name={slurm.job_name(folder)}"}
    assert "module load cuda" in lines
    command = next(line for line in lines if line.startswith("srun "))
    assert "--cpus-per-task=4" in command
    assert len(list((folder / "slurm").glob("7_*_submitted.pkl"))) == 3


def test_names_of_jobs_distinguish_folders(tmp_path):
    one, other = (slurm.job_name(tmp_path / p / "it's, Ü") for p in ("a", "b"))
    assert one.startswith("fairseq-scl-it-s----")
    assert one != other
    assert one == slurm.job_name(tmp_path / "a" / "it's, Ü")


def test_what_is_done_needs_no_jobs(fake, folder, runs):
    finish(folder, runs)
    tally = slurm.sweep_on_slurm(runs, folder, SlurmSettings(jobs=2))
    assert (tally.total, tally.done) == (9, 9)
    assert submissions(fake) == 0


def test_jobs_that_are_there_are_followed(fake, folder, runs):
    (fake / "states").write_text("RUNNING\nPENDING\n")
    tallies = sweep_until(runs, folder, jobs=2, looks=3)
    assert submissions(fake) == 0
    assert [(t.running, t.done) for t in tallies[:3]] == [(1, 0)] * 3
    assert f"--name={slurm.job_name(folder)}" in (fake / "asked").read_text()


def test_missing_jobs_are_added_once(fake, folder, runs):
    (fake / "states").write_text("RUNNING\n")
    sweep_until(runs, folder, jobs=3, looks=3)
    assert submissions(fake) == 1
    assert "#SBATCH --array=0-1%2" in (fake / "scripts").read_text()


def test_no_more_jobs_than_runs(fake, folder, runs):
    finish(folder, runs[2:])
    sweep_until(runs, folder, jobs=50, looks=2)
    assert "#SBATCH --array=0-1%2" in (fake / "scripts").read_text()


def test_jobs_that_end_in_vain_are_given_up(fake, folder, runs):
    log = folder / "slurm" / "7_0_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback\nOSError: the disk is full\nsrun: error: task 0\n\n")
    with pytest.raises(SlurmError) as caught:
        slurm.sweep_on_slurm(runs, folder, SlurmSettings(jobs=2))
    assert str(caught.value) == (
        "jobs ended 3 times in a row without finishing a run, see "
        f"{folder / 'slurm'}: OSError: the disk is full"
    )
    assert submissions(fake) == 3


def test_progress_earns_new_jobs(fake, folder, runs):
    """Each array ends with one more run done: there is no limit to that."""
    done = []

    def look(tally):
        if submissions(fake) > len(done):
            done.append(runs[len(done)])
            finish(folder, done)

    tally = slurm.sweep_on_slurm(runs, folder, SlurmSettings(jobs=1), look)
    assert (tally.done, submissions(fake)) == (9, 9)


def test_a_run_that_another_driver_is_at_needs_no_job(fake, folder, runs):
    finish(folder, runs[1:])
    with claim(folder, runs[0].name):
        sweep_until(runs, folder, jobs=1, looks=10)
    assert submissions(fake) == 1  # before the first look nobody knew


def test_a_slurm_that_is_away_for_a_while_is_waited_for(fake, folder, runs):
    (fake / "states").write_text("RUNNING\n")
    looks = []

    def look(tally):
        looks.append(tally)
        if len(looks) == 2:
            write_program(fake / "squeue", "echo 'Unable to contact' >&2; exit 1")
        if len(looks) == 5:
            finish(folder, runs)

    slurm.sweep_on_slurm(runs, folder, SlurmSettings(jobs=1), look)
    assert submissions(fake) == 0


def refusal(runs, folder):
    with pytest.raises(InputError) as caught:
        slurm.sweep_on_slurm(runs, folder, SlurmSettings(jobs=1))
    return str(caught.value)


def test_refusals(fake, folder, runs, monkeypatch):
    write_program(
        fake / "sbatch", "echo 'sbatch: error: Invalid partition' >&2; exit 1"
    )
    text = refusal(runs, folder)
    assert text == "Slurm refuses the jobs: sbatch: error: Invalid partition"
    write_program(fake / "squeue", "echo 'squeue: error: no contact' >&2; exit 1")
    text = refusal(runs, folder)
    assert text == "--executor slurm: squeue failed: squeue: error: no contact"
    monkeypatch.setenv("PATH", "")
    assert refusal(runs, folder) == (
        "--executor slurm: there is no squeue on this machine"
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(InputError, match=r"pip install submitit$"):
            slurm.submit(Driver(tuple(runs), folder), 1, SlurmSettings(jobs=1))
    with pytest.raises(InputError, match="there is no srun on this machine"):
        slurm.submit(Driver(tuple(runs), folder), 1, SlurmSettings(jobs=1))


def test_the_command_line_hands_everything_on(fake, toy, capfd):
    argv = [
        *[*toy, "--device", "cpu", "--executor", "slurm"],
        *["--slurm-partition", "gpu", "--jobs", "2"],
        *["--slurm-minutes", "30", "--slurm-option", "account=me"],
    ]
    assert main(argv) == 1
    assert "3 times in a row without finishing a run" in capfd.readouterr().err
    text = (fake / "scripts").read_text()
    for flag in ("array=0-1%2", "partition=gpu", "time=30", "account=me"):
        assert f"#SBATCH --{flag}\n" in text


def test_a_job_that_is_warned_is_requeued_and_loses_no_run(
    folder, runs, fast_commands, monkeypatch
):
    """With submitit's local jobs; signals go to every process, as Slurm sends them."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("SECONDS_A_RUN", "2.5")
    from helpers.slow_driver import STARTS, SlowDriver

    run = runs[0]
    python = shlex.quote(str(fast_commands / "fast-python"))
    executor = submitit.LocalExecutor(folder / "slurm", python=python)
    executor.update_parameters(timeout_min=5)
    job = executor.submit(SlowDriver((run,), folder))
    while not (folder / STARTS).exists():
        time.sleep(0.05)
        assert job.state == "RUNNING", job.stderr()
    time.sleep(0.5)
    worker, driver = map(int, (folder / STARTS).read_text().split()[1:])
    for warning in (signal.SIGTERM, signal.SIGUSR2):
        os.kill(worker, warning)
        time.sleep(0.5)  # a driver that looks sees a worker that goes on
        os.kill(driver, warning)
    job.result()
    assert is_done(folder, run.name)
    assert not list(folder.glob(f"runs/*/{ERROR}"))
    begun = [line.split()[0] for line in (folder / STARTS).read_text().splitlines()]
    assert begun == [run.name, run.name]
