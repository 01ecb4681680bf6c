"""Sweeps on a real one-node Slurm, started by start.sh; run with `make test-slurm`."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fairseq_scl.experiments.results_folder import ERROR, RECORD, read_record
from fairseq_scl.experiments.slurm import job_name, job_states
from helpers import ROOT
from helpers.encoders import toy_encoder
from helpers.slow_driver import STARTS
from helpers.tables import make_toy_samples, write_toy_table

pytestmark = pytest.mark.slurm

HERE = Path(__file__).parent
FOLDER = os.environ.get("SLURM_FOLDER", "/tmp/fairseq-scl-slurm")
LOSSES = ("CE", "CE+SCL-lambda0.9-tau0.3")
RUNS = {f"toy-n8-{loss}-sample{number}" for loss in LOSSES for number in range(3)}


class Sweep:
    """A ``fairseq-scl run --executor slurm`` with jobs slow enough to interrupt."""

    def __init__(self, folder: Path, driver: str = "SlowDriver") -> None:
        self.folder = folder / "it's a folder"
        self.name = job_name(self.folder)
        self.seen: dict[str, int] = {}
        script = "import sys, helpers.slow_driver as d; "
        script += f"sys.exit(d.command_line({driver!r}))"
        data, table = make_toy_samples(folder / "data"), write_toy_table(folder)
        self.argv = [
            *[sys.executable, "-c", script, "run", str(table), "--smoke"],
            *["--data", str(data), "--model", str(toy_encoder()), "--device", "cpu"],
            *["--results", str(self.folder), "--jobs", "2", "--executor", "slurm"],
            *["--slurm-partition", "test", "--slurm-minutes", "10"],
        ]
        self.start()

    def start(self):
        """Start or restart the command."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(self.argv, **pipes)

    def records(self):
        """Return when each record was written; records must not change or disappear."""
        found = self.folder.glob(f"runs/*/{RECORD}")
        now = {path.parent.name: path.stat().st_mtime_ns for path in found}
        assert {name: now.get(name) for name in self.seen} == self.seen
        self.seen = now
        return now

    def starts(self):
        """Count how often each run's training started, finished or not."""
        path = self.folder / STARTS
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return Counter(line.split()[0] for line in lines)

    def jobs(self):
        """Return the numbers of the running jobs, as accepted by ``scancel``."""
        command = ["squeue", "-h", "--array", "-t", "running", "--format=%i"]
        return ask(*command, f"--name={self.name}").split()

    def wait_for(self, condition, seconds=120):
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            assert self.process.poll() is None, self.process.communicate()
            self.records()
            time.sleep(0.1)

    def wait_for_starts(self, number):
        """Wait until ``count`` more runs have started."""
        wanted = self.starts().total() + number
        self.wait_for(lambda: self.starts().total() >= wanted)


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    """Let this process and its jobs find the cluster and the test modules."""
    # Never use another cluster: these tests drain nodes.
    monkeypatch.setenv("SLURM_CONF", f"{FOLDER}/slurm.conf")
    places = [ROOT / "tests", ROOT, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, places)))


@pytest.fixture
def start(tmp_path, cluster):
    """Start a sweep and clean up after it."""
    started = []

    def start(driver="SlowDriver"):
        started.append(Sweep(tmp_path, driver))
        return started[0]

    yield start
    for sweep in started:
        sweep.process.kill()
        ask("scancel", f"--name={sweep.name}")
    if "drain" in ask("sinfo", "--noheader", "--format=%T"):
        resume()


def ask(*command):
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def node():
    return "NodeName=" + ask("sinfo", "--noheader", "--partition=test", "--format=%n")


def resume():
    ask("scontrol", "update", node(), "State=RESUME")


def preempt(sweep):
    """Submit an urgent job that takes the node; Slurm requeues ours."""
    jobs = set(sweep.jobs())
    ask("sbatch", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    sweep.wait_for(lambda: not sweep.jobs())
    sweep.wait_for(lambda: set(sweep.jobs()) == jobs)


def drain_and_resume(sweep):
    """Drain the node; cancel one job, let the other be requeued; resume the node."""
    ask("scontrol", "update", node(), "State=DRAIN", "Reason=test")
    cancelled, requeued = sweep.jobs()
    ask("scancel", cancelled)
    ask("scancel", "--signal=USR2", requeued)  # as before a timeout
    # A cancelled job may finish its run in the seconds before it is killed.
    sweep.wait_for(lambda: job_states(sweep.name) == ["PENDING"])
    done = sweep.records()
    time.sleep(8)
    assert job_states(sweep.name) == ["PENDING"]
    assert sweep.records() == done
    resume()
    sweep.wait_for(lambda: sweep.jobs() == [requeued])


def test_sweep_survives_its_jobs(start):
    sweep = start()
    sweep.wait_for_starts(2)
    sweep.process.kill()  # the jobs continue, and a new command follows them
    sweep.process.communicate()
    sweep.start()
    preempt(sweep)
    sweep.wait_for_starts(2)
    drain_and_resume(sweep)
    sweep.wait_for_starts(1)
    ask("scancel", f"--name={sweep.name}")
    out, error = sweep.process.communicate(timeout=120)
    assert (sweep.process.returncode, "6 of 6 runs are done" in out) == (0, True), error
    assert sweep.records().keys() == RUNS
    assert not list(sweep.folder.glob(f"runs/*/{ERROR}"))
    for name in RUNS:
        assert read_record(sweep.folder / "runs" / name).settings["name"] == name
    # Two jobs were pre-empted, one cancelled, one requeued, one cancelled: each may
    # have lost the run that it was at.
    assert sweep.starts().keys() == RUNS
    assert len(RUNS) < sweep.starts().total() <= len(RUNS) + 5


def test_sweep_gives_up_if_jobs_keep_failing(start):
    sweep = start("BrokenDriver")
    _, error = sweep.process.communicate(timeout=120)
    assert sweep.process.returncode == 1
    assert "3 times in a row without finishing a run, see" in error
    assert error.rstrip().endswith("OSError: the disk is full")


def test_options_refused_by_slurm_are_bad_input(start):
    sweep = start()
    sweep.process.kill()
    sweep.process.communicate()
    ask("scancel", f"--name={sweep.name}")
    sweep.argv += ["--slurm-partition", "none"]
    sweep.start()
    _, error = sweep.process.communicate(timeout=120)
    assert sweep.process.returncode == 2
    assert "Slurm refuses the jobs: sbatch: error: " in error
    assert "Invalid partition name specified" in error
