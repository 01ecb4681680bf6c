"""Many runs: claimed one by one, by any number of processes on any number of machines.

A run is done when its record is there, failed when its error is there, and taken while
somebody holds its lock. The kernel lets go of a lock when its holder dies, so nothing
stays locked, and whoever comes next starts the run anew.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import threads_each, worker_environments
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.in_process import encoder_state, train_here
from fairseq_scl.experiments.results_folder import (
    ERROR,
    claim,
    is_done,
    is_failed,
    run_folder,
    write_error,
)
from fairseq_scl.experiments.runner import run_training

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Tally:
    """How far a sweep is, in runs."""

    total: int
    done: int
    failed: int
    running: int


def work(
    runs: Sequence[Run],
    folder: Path,
    limit: int | None = None,
    on_claim: Callable[[int], None] = lambda number: None,
) -> int:
    """Do the runs that are open and not taken, one after another, in this process.

    Args:
        runs: of which some may be done, failed or taken by others.
        folder: of the results.
        limit: stop after so many.
        on_claim: called with the number in ``runs`` of each run that is begun.

    Returns:
        how many were begun.
    """
    begun = 0
    for number, run in enumerate(runs):
        if is_done(folder, run.name) or is_failed(folder, run.name):
            continue
        with claim(folder, run.name) as mine:
            # It may have ended between the look and the lock.
            if not mine or is_done(folder, run.name) or is_failed(folder, run.name):
                continue
            on_claim(number)
            begun += 1
            _do(run, run_folder(folder, run.name))
        if begun == limit:
            break
    return begun


def _do(run: Run, folder: Path) -> None:
    """Do a run; whatever goes wrong is left in its folder, and the sweep goes on."""
    try:
        run_training(run, folder, train_here)
    except Exception as error:
        if not (folder / ERROR).exists():
            write_error(folder, "".join(traceback.format_exception(error)))


def sweep(
    runs: Sequence[Run],
    folder: Path,
    jobs: int,
    on_progress: Callable[[Tally], None] = lambda tally: None,
    wait: bool = True,
    ignored: Collection[int] = (),
) -> Tally:
    """Do all runs, several at a time, and return how it ended.

    For the CPU this process imports fairseq and loads the encoders, and its workers are
    forks that share that memory; each does one run, so that nothing of it is left to
    the next. A fork cannot use CUDA once its parent has, so workers for GPUs are
    processes of their own. They take seconds to start and stay until a run fails.

    Args:
        runs: what to do; those that are done or have failed are left as they are.
        folder: of the results.
        jobs: runs at a time.
        on_progress: called now and then.
        wait: wait also for runs that another sweep is at.
        ignored: signals that workers ignore.

    Raises:
        InputError: there is no such device, or it lacks the precision; a run cannot be
            claimed or its folder cannot be written.
    """
    check_device(runs[0].device, runs[0].precision)
    plan = worker_environments(runs[0].device, jobs)
    # Threads of this process would not be there in its forks.
    torch.set_num_threads(1)
    if runs[0].device == "cpu":
        for path in sorted({str(run.encoder / "model.pt") for run in runs}):
            encoder_state(path)
    threads = threads_each(jobs)
    workers: dict[int, _Worker] = {}  # by their place in the plan
    idle = False
    try:
        while True:
            for place in [p for p, w in workers.items() if not w.process.is_alive()]:
                idle = workers.pop(place).ended(runs, folder)
            tally = count(runs, folder, [w.number for w in workers.values()])
            on_progress(tally)
            open_runs = tally.total - tally.done - tally.failed
            if not open_runs or (idle and not workers and not wait):
                return tally
            if len(workers) < min(jobs, open_runs) and not (idle and workers):
                place = next(p for p in range(jobs) if p not in workers)
                # Ctrl-C reaches them, too; this process ends them.
                work = (runs, folder, threads, (*ignored, signal.SIGINT))
                workers[place] = _Worker(*work, plan[place])
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        for worker in workers.values():
            worker.process.kill()  # SIGTERM may be ignored
            worker.process.join()


def count(runs: Sequence[Run], folder: Path, running: Sequence[int] = ()) -> Tally:
    """Count runs by their state; ``running`` are the numbers of those at work."""
    done = sum(is_done(folder, run.name) for run in runs)
    failed = sum(is_failed(folder, run.name) for run in runs)
    at_work = sum(
        number >= 0 and not is_done(folder, runs[number].name) for number in running
    )
    return Tally(len(runs), done, failed, at_work)


class _Worker:
    """A process that claims runs: a fork for the CPU, one of its own for a GPU."""

    def __init__(
        self,
        runs: Sequence[Run],
        folder: Path,
        threads: int,
        ignored: Collection[int],
        environment: Mapping[str, str],
    ) -> None:
        context: Any = multiprocessing.get_context(
            "fork" if runs[0].device == "cpu" else "spawn"
        )
        self._number = context.Value("i", -1)
        self._refused = context.SimpleQueue()
        told = self._number, self._refused
        self.process = context.Process(
            target=_work_alone,
            args=(runs, folder, threads, ignored, told, os.getpid()),
        )
        # The environment has to be there before the process imports anything, and the
        # signals have to wait until it ignores them.
        with mock.patch.dict(os.environ, environment):
            signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
            self.process.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)

    @property
    def number(self) -> int:
        """The run that it was last at, -1 before the first."""
        return int(self._number.value)

    def ended(self, runs: Sequence[Run], folder: Path) -> bool:
        """Note why it died, if it did; tell whether it had found nothing to do.

        Raises:
            InputError: no worker could go on, as with a full disk.
        """
        if not self._refused.empty():
            raise InputError(self._refused.get())
        status = self.process.exitcode
        if status and status < 0:
            time.sleep(1)  # whoever killed it may be about to kill this process, too
        if status and self.number >= 0:
            run = runs[self.number]
            if not is_done(folder, run.name) and not is_failed(folder, run.name):
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                if -status == signal.SIGKILL:
                    how += ", perhaps out of memory: lower --jobs or --jobs-per-gpu"
                text = f"the process that trained it ended with {how}\n"
                write_error(run_folder(folder, run.name), text)
        return self.number < 0


def _work_alone(
    runs: Sequence[Run],
    folder: Path,
    threads: int,
    ignored: Collection[int],
    told: tuple[Any, Any],
    parent: int,
) -> None:
    for which in ignored:
        signal.signal(which, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    number, refused = told
    torch.set_num_threads(threads)

    def note(claimed: int) -> None:
        number.value = claimed

    try:
        while work(runs, folder, 1, note):
            # After a failed run CUDA may fail in every run that follows here.
            if runs[0].device == "cpu" or is_failed(folder, runs[number.value].name):
                break
    except InputError as error:
        refused.put(str(error))


def _die_with(parent: int) -> None:
    """End this process soon after its parent, however that ends."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
