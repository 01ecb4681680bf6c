"""Sweeps on Slurm: an array of jobs that all work on the same results folder.

Jobs share nothing but that folder, see :mod:`~fairseq_scl.experiments.sweep`: its locks
show which runs are taken and its records which are done. Jobs may therefore be
preempted, cancelled or added at any time, and the submitting process may be stopped and
started again.
"""

import hashlib
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import default_jobs
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.results_folder import claim, is_ended, last_line
from fairseq_scl.experiments.sweep import Tally, count, sweep

LOGS = "slurm"
SUBMISSIONS_IN_VAIN = 3
SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_TO_BE_KILLED = 60
NOTICE_SECONDS = 90  # before its time limit a job requeues itself
REQUEUES = 10  # of a job that reached its time limit


class SlurmError(RuntimeError):
    """Jobs keep ending without finishing a run; the message is one sentence."""


@dataclass(frozen=True)
class SlurmSettings:
    """The resources to request from Slurm.

    Attributes:
        jobs: number of concurrent jobs. Each trains one run at a time, or
            ``jobs_per_gpu`` on each of its GPUs.
        partition: the partition; ``None`` for the cluster's default.
        minutes: time limit per job; at least one run must fit.
        jobs_per_gpu: concurrent training runs on each GPU of a job.
        memory_gb: memory per job; ``None`` for the cluster's default.
        setup: shell lines to run at the start of a job, such as ``module load …``.
        options: further ``sbatch`` options: account, qos, gres, constraint, ….
    """

    jobs: int
    partition: str | None = None
    minutes: int = 240
    cpus: int = 1
    gpus: int = 0
    jobs_per_gpu: int = 1
    memory_gb: int | None = None
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Driver:
    """The work of a job: do runs until all remaining ones are taken by others."""

    runs: tuple[Run, ...]
    folder: Path
    jobs_per_gpu: int = 1

    def __call__(self) -> None:
        """Sweep on the GPUs of a job or on the CPU; called by submitit."""
        logging.getLogger().setLevel(logging.WARNING)  # imports lower it
        device = self.runs[0].device
        check_device(device)
        jobs = 1 if device == "cpu" else default_jobs(device, self.jobs_per_gpu)
        ignored = handle_signals()
        sweep(self.runs, self.folder, jobs, wait=False, ignored=ignored)

    def checkpoint(self) -> Any:
        """Return the job to requeue: this one, because finished runs are skipped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def handle_signals() -> tuple[int, ...]:
    """Handle the signals of Slurm, and return those that workers must ignore.

    Slurm sends its signals to every process of a job. A worker killed by one would
    leave an error although nothing is wrong with its run. Before a timeout, submitit's
    handler requeues the job. Before a preemption, Slurm requeues it, after SIGTERM and
    a grace period in which runs may still finish.
    """
    import submitit

    warning = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
    requeue: Any = signal.getsignal(warning)

    def leave(number: int, frame: Any) -> None:
        status: Any = 1
        try:
            requeue(number, frame)
        except SystemExit as exit:
            status = exit.code
        finally:
            os._exit(status % 256)  # sys.exit would wait for the workers

    def await_the_end(number: int, frame: Any) -> None:
        # Slurm kills the workers one by one; do not record their deaths as failures.
        time.sleep(SECONDS_TO_BE_KILLED)

    signal.signal(warning, leave)
    signal.signal(signal.SIGTERM, await_the_end)
    return warning, signal.SIGTERM


def job_name(folder: Path) -> str:
    """Return the name of the jobs that work on a results folder."""
    place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return f"fairseq-scl-{re.sub('[^a-zA-Z0-9._-]', '-', folder.name)}-{place}"


def job_states(name: str) -> list[str]:
    """Return the state of each pending or running job with a name.

    Raises:
        SlurmError: ``squeue`` fails.
    """
    command = ["squeue", "--noheader", "--array", "--format=%T", f"--name={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SlurmError(f"squeue failed: {last_line(done.stderr)}")
    return done.stdout.split()


def submit(driver: Driver, number: int, settings: SlurmSettings) -> None:
    """Submit an array of jobs that each call the driver; logs go to ``folder/slurm``.

    Raises:
        InputError: submitit or Slurm is missing, or Slurm refuses the jobs.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError as error:
        raise InputError(
            "--executor slurm needs submitit: pip install submitit"
        ) from error
    try:
        executor = submitit.SlurmExecutor(driver.folder / LOGS, REQUEUES)
    except RuntimeError as error:
        raise InputError(
            "--executor slurm: there is no srun on this machine"
        ) from error
    wanted: dict[str, Any] = {
        "job_name": job_name(driver.folder),
        "partition": settings.partition,
        "time": settings.minutes,
        "cpus_per_task": settings.cpus,
        "gpus_per_node": settings.gpus or None,
        "mem": None if settings.memory_gb is None else f"{settings.memory_gb}GB",
        "signal_delay_s": NOTICE_SECONDS,
        "setup": list(settings.setup) or None,
        # Since Slurm 22.05, srun does not inherit this from sbatch.
        "srun_args": [f"--cpus-per-task={settings.cpus}"],
        "additional_parameters": {"requeue": True, **settings.options},
        "array_parallelism": number,  # by default at most 256 concurrent jobs
    }
    given = {key: value for key, value in wanted.items() if value is not None}
    executor.update_parameters(**given)
    try:
        with executor.batch():
            for _ in range(number):
                executor.submit(driver)
    except (FailedJobError, FailedSubmissionError) as error:
        raise InputError(f"Slurm refuses the jobs: {last_line(str(error))}") from error


def sweep_on_slurm(
    runs: Sequence[Run],
    folder: Path,
    settings: SlurmSettings,
    on_progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Do all runs in Slurm jobs, follow their progress, and return the final tally.

    Jobs of an earlier call that still exist count toward ``settings.jobs``. If all jobs
    have ended and some runs have not, new jobs are submitted. The jobs continue if this
    function is interrupted. All machines must share the results folder and its locks.

    Raises:
        InputError: submitit or Slurm is missing, or Slurm refuses the jobs.
        SlurmError: jobs ended three times in a row without finishing a run.
    """
    in_vain, ended, is_first = 0, -1, True
    while True:
        states = _states_or_unknown(folder, is_first)
        tally = count(runs, folder)
        open_runs = tally.total - tally.done - tally.failed
        tally = replace(tally, running=min(states.count("RUNNING"), open_runs))
        on_progress(tally)
        if not open_runs:
            return tally
        if tally.done + tally.failed > ended:
            ended, in_vain = tally.done + tally.failed, 0
        missing = min(settings.jobs, open_runs) - len(states)
        if missing > 0 and (is_first or (not states and _any_is_free(runs, folder))):
            if in_vain == SUBMISSIONS_IN_VAIN:
                raise SlurmError(_explain(folder))
            driver = Driver(tuple(runs), folder, settings.jobs_per_gpu)
            submit(driver, missing, settings)
            in_vain += 1
        is_first = False
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _states_or_unknown(folder: Path, is_first: bool) -> list[str]:
    """Return the states of jobs; ``["UNKNOWN"]`` while Slurm does not respond."""
    try:
        return job_states(job_name(folder))
    except SlurmError as error:
        if is_first:
            raise InputError(f"--executor slurm: {error}") from error
        return ["UNKNOWN"]
    except FileNotFoundError as error:
        raise InputError(
            "--executor slurm: there is no squeue on this machine"
        ) from error


def _any_is_free(runs: Sequence[Run], folder: Path) -> bool:
    """Return whether any run is open and not locked by another process."""
    for run in runs:
        if not is_ended(folder, run.name):
            with claim(folder, run.name) as free:
                if free:
                    return True
    return False


def _explain(folder: Path) -> str:
    what = (
        f"jobs ended {SUBMISSIONS_IN_VAIN} times in a row without finishing a run, "
        f"see {folder / LOGS}"
    )
    logs = sorted((folder / LOGS).glob("*_log.err"), key=lambda p: p.stat().st_mtime)
    text = logs[-1].read_text(encoding="utf-8", errors="replace") if logs else ""
    # Skip the lines of srun, which only repeat that the job failed.
    lines = [s for s in text.splitlines() if not s.startswith(("srun:", "slurmstepd:"))]
    return f"{what}: {last_line(chr(10).join(lines))}"
