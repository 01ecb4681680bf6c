"""Sweeps on Slurm: an array of jobs, each of them one more driver of the same folder.

The folder of results is all that jobs share, see
:mod:`~fairseq_scl.experiments.sweep`: its locks say who does what, its records what is
done. So jobs may be pre-empted, cancelled or added at any time, and whoever submitted
them may go away and come back.
"""

import hashlib
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import default_jobs
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.results_folder import claim, is_done, is_failed
from fairseq_scl.experiments.sweep import Tally, count, sweep

LOGS = "slurm"
SUBMISSIONS_IN_VAIN = 3
SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_TO_BE_KILLED = 60


class SlurmError(RuntimeError):
    """Jobs end again and again without a run being done; one sentence."""


@dataclass(frozen=True)
class SlurmSettings:
    """What is asked of Slurm.

    Attributes:
        jobs: that run at a time, each with one training run at a time, or
            ``jobs_per_gpu`` on each of its GPUs.
        partition: where; ``None`` for the cluster's default.
        minutes: time limit of a job, in which at least one run must fit.
        cpus: processors of a job.
        gpus: of a job.
        jobs_per_gpu: training runs at a time on each GPU of a job.
        memory_gb: of a job; ``None`` for the cluster's default.
        notice_seconds: how long before its time limit a job has itself requeued.
        requeues: how often a job that reached its time limit is requeued.
        setup: shell lines run at the start of a job, as ``module load …``.
        options: further options of ``sbatch``: account, qos, gres, constraint, ….
    """

    jobs: int
    partition: str | None = None
    minutes: int = 240
    cpus: int = 1
    gpus: int = 0
    jobs_per_gpu: int = 1
    memory_gb: int | None = None
    notice_seconds: int = 90
    requeues: int = 10
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no job can have.

        Raises:
            InputError: names the flag.
        """
        # Slurm may give notice a minute early; then there would be no time to work.
        for flag, value, least in (
            ("minutes", self.minutes, 5),
            ("cpus", self.cpus, 1),
            ("gpus", self.gpus, 0),
            ("memory-gb", self.memory_gb, 1),
        ):
            if value is not None and value < least:
                raise InputError(
                    f"--slurm-{flag} is {value}: it must be at least {least}"
                )


@dataclass(frozen=True)
class Driver:
    """What a job does: runs, until none is left that nobody else is at."""

    runs: tuple[Run, ...]
    folder: Path
    jobs_per_gpu: int = 1

    def __call__(self) -> None:
        """Drive a sweep on the GPUs of a job, or on the CPU; called by submitit."""
        logging.getLogger().setLevel(logging.WARNING)  # imports lower it
        device = self.runs[0].device
        check_device(device)
        jobs = 1 if device == "cpu" else default_jobs(device, self.jobs_per_gpu)
        ignored = handle_signals()
        sweep(self.runs, self.folder, jobs, wait=False, ignored=ignored)

    def checkpoint(self) -> Any:
        """Return what to requeue: the same, for records say what has been done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def handle_signals() -> tuple[int, ...]:
    """Act on the signals of Slurm, and return those that workers have to ignore.

    Slurm sends them to every process of a job. A worker that one of them ended would
    leave an error, though nothing is wrong with its run. Before a time-out, submitit's
    handler requeues the job; before a pre-emption Slurm does, after SIGTERM and a time
    of grace in which runs may still end.
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
        # Workers are killed one by one: meanwhile nobody looks how they ended.
        time.sleep(SECONDS_TO_BE_KILLED)

    signal.signal(warning, leave)
    signal.signal(signal.SIGTERM, await_the_end)
    return warning, signal.SIGTERM


def job_name(folder: Path) -> str:
    """Return the name of the jobs that work on a folder of results."""
    place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return f"fairseq-scl-{re.sub('[^a-zA-Z0-9._-]', '-', folder.name)}-{place}"


def job_states(name: str) -> list[str]:
    """Return the state of each job of a name that has not ended.

    Raises:
        SlurmError: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--format=%T", f"--name={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SlurmError(f"squeue failed: {_last(done.stderr)}")
    return done.stdout.split()


def submit(driver: Driver, number: int, settings: SlurmSettings) -> None:
    """Submit jobs that each call a driver, as one array; logs go to ``folder/slurm``.

    Raises:
        InputError: submitit or Slurm is missing, or Slurm refuses the jobs.
    """
    executor = _executor(driver.folder, settings)
    # Without a limit of its own submitit has at most 256 jobs run at a time.
    executor.update_parameters(array_parallelism=number)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with executor.batch():
            for _ in range(number):
                executor.submit(driver)
    except (FailedJobError, FailedSubmissionError) as error:
        raise InputError(f"Slurm refuses the jobs: {_last(str(error))}") from error


def _executor(folder: Path, settings: SlurmSettings) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "--executor slurm needs submitit: pip install 'fairseq-scl[slurm]'"
        ) from error
    try:
        executor = submitit.SlurmExecutor(folder / LOGS, settings.requeues)
    except RuntimeError as error:
        raise InputError(
            "--executor slurm: there is no srun on this machine"
        ) from error
    wanted: dict[str, Any] = {
        "job_name": job_name(folder),
        "partition": settings.partition,
        "time": settings.minutes,
        "cpus_per_task": settings.cpus,
        "gpus_per_node": settings.gpus or None,
        "mem": None if settings.memory_gb is None else f"{settings.memory_gb}GB",
        "signal_delay_s": settings.notice_seconds,
        "setup": list(settings.setup) or None,
        # Since Slurm 22.05 srun does not take over what sbatch was asked for.
        "srun_args": [f"--cpus-per-task={settings.cpus}"],
        "additional_parameters": {"requeue": True, **settings.options},
    }
    wanted = {key: value for key, value in wanted.items() if value is not None}
    executor.update_parameters(**wanted)
    return executor


def sweep_on_slurm(
    runs: Sequence[Run],
    folder: Path,
    settings: SlurmSettings,
    on_progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Have jobs do all runs, follow them, and return how it ended.

    Jobs of an earlier call that are still there count. When none is left but runs are,
    jobs are submitted again. Interrupting it does nothing to the jobs.

    Args:
        runs: what to do; those that are done or have failed are left as they are.
        folder: of the results; all machines must see it, and its file locks.
        settings: of the jobs.
        on_progress: called now and then.

    Raises:
        InputError: submitit or Slurm is missing, or Slurm refuses the jobs.
        SlurmError: jobs ended three times in a row without a run being done.
    """
    in_vain, ended, is_first = 0, -1, True
    while True:
        states = _states_or_unknown(folder, is_first)
        tally = _count(runs, folder, states)
        on_progress(tally)
        open_runs = tally.total - tally.done - tally.failed
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
    """Return the states of jobs; something that is no state while Slurm is away."""
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


def _count(runs: Sequence[Run], folder: Path, states: Sequence[str]) -> Tally:
    tally = count(runs, folder)
    open_runs = tally.total - tally.done - tally.failed
    running = min(states.count("RUNNING"), open_runs)
    return Tally(tally.total, tally.done, tally.failed, running)


def _any_is_free(runs: Sequence[Run], folder: Path) -> bool:
    """Tell whether a run is open that no other driver, here or there, is at."""
    for run in runs:
        if not is_done(folder, run.name) and not is_failed(folder, run.name):
            with claim(folder, run.name) as free:
                if free:
                    return True
    return False


def _explain(folder: Path) -> str:
    what = (
        f"jobs ended {SUBMISSIONS_IN_VAIN} times in a row without a run being done, "
        f"see {folder / LOGS}"
    )
    logs = sorted((folder / LOGS).glob("*_log.err"), key=lambda p: p.stat().st_mtime)
    text = logs[-1].read_text(encoding="utf-8", errors="replace") if logs else ""
    # srun adds that the job has failed.
    lines = [s for s in text.splitlines() if not s.startswith(("srun:", "slurmstepd:"))]
    return f"{what}: {_last(chr(10).join(lines)) or 'no output'}"


def _last(text: str) -> str:
    return next((s.strip() for s in reversed(text.splitlines()) if s.strip()), "")
