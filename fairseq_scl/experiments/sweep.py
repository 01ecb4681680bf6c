"""Sweeps: any number of processes, on any number of machines, claim runs one by one.

A run with a record is done, a run with an error has failed, and a locked run is taken.
The kernel releases the lock when the process that holds it dies, so the next process
starts that run again.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import threads_each, worker_environments
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.in_process import prepare_forks, train_here
from fairseq_scl.experiments.records import state_of_code
from fairseq_scl.experiments.results_folder import (
    ERROR,
    claim,
    is_done,
    is_ended,
    is_failed,
    run_folder,
    write_error,
)
from fairseq_scl.experiments.runner import run_training

SECONDS_BETWEEN_LOOKS = 0.2
MOST_DEAD_STARTS = 3  # workers in a row that died before their first run


@dataclass(frozen=True)
class Tally:
    """The progress of a sweep, in runs."""

    total: int
    done: int
    failed: int
    running: int


def work(
    runs: Sequence[Run],
    folder: Path,
    on_claim: Callable[[int], None] = lambda number: None,
) -> bool:
    """Do the first open run in this process, and return whether there was one.

    ``on_claim`` is called at its start with its index in ``runs``. An exception is
    written into the folder of the run.
    """
    for number, run in enumerate(runs):
        if is_ended(folder, run.name):
            continue
        with claim(folder, run.name) as mine:
            # It may have ended between the check above and the lock.
            if not mine or is_ended(folder, run.name):
                continue
            on_claim(number)
            place = run_folder(folder, run.name)
            try:
                run_training(run, place, train_here)
            except Exception as error:
                if not (place / ERROR).exists():
                    write_error(place, "".join(traceback.format_exception(error)))
            return True
    return False


def sweep(
    runs: Sequence[Run],
    folder: Path,
    jobs: int,
    on_progress: Callable[[Tally], None] = lambda tally: None,
    wait: bool = True,
    ignored: Collection[int] = (),
) -> Tally:
    """Do all runs, several in parallel, and return the final tally.

    On the CPU, this process imports fairseq and loads the encoders, and its workers are
    forks that share that memory. Each worker does a single run, so that no state leaks
    into the next one. A fork cannot use CUDA once its parent has, so workers for GPUs
    are spawned, as are all workers on other systems than Linux, where system libraries
    do not support forks. They take seconds to start and do run after run until one
    fails.

    Finished and failed runs are skipped. With ``wait``, this also waits for runs that
    other sweeps are doing. Workers ignore the signals in ``ignored``.

    Raises:
        InputError: the device is missing or does not support the precision, a run
            cannot be claimed or its folder cannot be written, or workers cannot start.
    """
    check_device(runs[0].device, runs[0].precision)
    plan = worker_environments(runs[0].device, jobs)
    compute_with_one_thread()
    state_of_code()
    ended = (is_ended(folder, run.name) for run in runs)
    if _start_method(runs) == "fork" and not all(ended):
        prepare_forks(runs)
    threads = threads_each(jobs)
    workers: dict[int, _Worker] = {}  # by their place in the plan
    idle, dead_starts = False, 0
    try:
        while True:
            for place in [p for p, w in workers.items() if not w.process.is_alive()]:
                worker = workers.pop(place)
                idle = worker.ended(runs, folder)
                dead_starts = dead_starts + 1 if worker.died_at_start else 0
                if dead_starts == MOST_DEAD_STARTS:
                    raise InputError(
                        f"{dead_starts} workers in a row ended before their first run, "
                        f"the last with {worker.how_it_ended}"
                    )
            tally = count(runs, folder, [w.number for w in workers.values()])
            on_progress(tally)
            open_runs = tally.total - tally.done - tally.failed
            if not open_runs or (idle and not workers and not wait):
                return tally
            if len(workers) < min(jobs, open_runs) and not (idle and workers):
                place = next(p for p in range(jobs) if p not in workers)
                # Workers also get Ctrl-C; they ignore it, and this process kills them.
                work = (runs, folder, threads, (*ignored, signal.SIGINT))
                # Known before it starts, so that Ctrl-C meanwhile does not miss it.
                workers[place] = _Worker(*work)
                workers[place].start(plan[place])
            running = [worker.process.sentinel for worker in workers.values()]
            connection.wait(running, SECONDS_BETWEEN_LOOKS)  # for the first to end
    finally:
        started = [w.process for w in workers.values() if w.process.pid is not None]
        for process in started:
            process.kill()  # SIGTERM may be ignored
        # With CUDA, ending takes a second, in which the others must not go on.
        for process in started:
            process.join()


def compute_with_one_thread() -> None:
    """Prepare this process for forks that compute with several threads.

    OpenMP keeps the threads of a parallel region, but a fork does not inherit them and
    would wait for them forever. So a process that starts sweeps calls this before its
    first computation.
    """
    torch.set_num_threads(1)


def count(runs: Sequence[Run], folder: Path, running: Sequence[int] = ()) -> Tally:
    """Count runs by state; ``running`` has the indices that workers are at."""
    done = sum(is_done(folder, run.name) for run in runs)
    failed = sum(is_failed(folder, run.name) for run in runs)
    at_work = sum(
        number >= 0 and not is_done(folder, runs[number].name) for number in running
    )
    return Tally(len(runs), done, failed, at_work)


class _Worker:
    """A process that claims runs: forked for the CPU, spawned for a GPU."""

    def __init__(
        self,
        runs: Sequence[Run],
        folder: Path,
        threads: int,
        ignored: Collection[int],
    ) -> None:
        context: Any = multiprocessing.get_context(_start_method(runs))
        self._number = context.Value("i", -1)
        self._refused = context.SimpleQueue()
        told = self._number, self._refused
        self._ignored = ignored
        self.process = context.Process(
            target=_work_alone,
            args=(_Handed(runs), folder, threads, ignored, told, os.getpid()),
        )

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process, which needs the environment before it imports anything.

        The ignored signals are blocked until it ignores them. One that came in between
        ends this function with KeyboardInterrupt.
        """
        before = os.environ.copy()
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._ignored)
            os.environ.update(environment)
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._ignored)

    @property
    def number(self) -> int:
        """The index of the latest run that it started, -1 before the first."""
        return int(self._number.value)

    @property
    def died_at_start(self) -> bool:
        """Whether it failed before it could look for a run."""
        return bool(self.process.exitcode) and self.number < 0

    @property
    def how_it_ended(self) -> str:
        """Its exit status or signal, with a likely cause."""
        status = self.process.exitcode or 0
        if -status == signal.SIGKILL:
            cause = "possibly out of memory: lower --jobs or --jobs-per-gpu"
            return f"signal {-status}, {cause}"
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def ended(self, runs: Sequence[Run], folder: Path) -> bool:
        """Record its run as failed if it died, and return whether it found no run.

        Raises:
            InputError: no worker can continue, for example because the disk is full.
        """
        if not self._refused.empty():
            raise InputError(self._refused.get())
        status = self.process.exitcode
        if status and self.number >= 0:
            name = runs[self.number].name
            with claim(folder, name) as free:  # another sweep may have begun it again
                _wait_for_its_killer(status)
                if free and not is_ended(folder, name):
                    how = self.how_it_ended
                    text = f"the process that trained it ended with {how}\n"
                    write_error(run_folder(folder, name), text)
        elif status:
            _wait_for_its_killer(status)
        return self.number < 0 and not status


def _wait_for_its_killer(status: int) -> None:
    """Wait if a worker was killed: this process may be about to be killed as well."""
    if status < 0:
        time.sleep(1)


class _Handed(list[Run]):
    """Runs that are compressed for a spawned process.

    The parent writes them into a pipe, which the process reads only once it has
    imported PyTorch. What exceeds the 64 kB of the pipe would make the parent wait.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (zlib.compress(pickle.dumps(list(self))),)


def _unpacked(packed: bytes) -> list[Run]:
    runs: list[Run] = pickle.loads(zlib.decompress(packed))
    return runs


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
        while work(runs, folder, note):
            # After a failed run, CUDA may fail in all later runs of this process.
            if _start_method(runs) == "fork" or is_failed(
                folder, runs[number.value].name
            ):
                break
    except InputError as error:
        refused.put(str(error))


def _start_method(runs: Sequence[Run]) -> str:
    forks = runs[0].device == "cpu" and sys.platform == "linux"
    return "fork" if forks else "spawn"


def _die_with(parent: int) -> None:
    """Exit soon after the parent process has ended for any reason."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
