"""How many runs a machine takes at a time, and what each of them gets of it."""

import os

from fairseq_scl.device import visible_gpus


def worker_environments(device: str, jobs: int) -> list[dict[str, str]]:
    """Plan what each worker sees: worker k GPU k mod N, none if it works on the CPU.

    Args:
        device: ``cpu`` or ``cuda``.
        jobs: number of workers.

    Returns:
        variables to set, one mapping per worker; empty if there is no GPU.
    """
    gpus = [gpu.entry for gpu in visible_gpus()] if device == "cuda" else [""]
    workers = range(jobs if gpus else 0)
    return [{"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} for k in workers]


def default_jobs(device: str, jobs_per_gpu: int = 1) -> int:
    """Return how many runs fit at a time: on all GPUs, or on all processors."""
    if device == "cuda":
        return len(visible_gpus()) * jobs_per_gpu
    return max(1, available_cores() // (_omp_num_threads() or 1))


def threads_each(jobs: int) -> int:
    """Return the threads of a worker: ``OMP_NUM_THREADS`` or its share of the cores."""
    return _omp_num_threads() or max(1, available_cores() // jobs)


def _omp_num_threads() -> int:
    """Return ``OMP_NUM_THREADS``, the first of several; 0 if it is unset or invalid."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def available_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        here = len(os.sched_getaffinity(0))
    else:
        here = os.cpu_count() or 1
    # Not every cluster binds a job to the processors that it asked for.
    return min(here, int(os.environ.get("SLURM_CPUS_PER_TASK", here)))
