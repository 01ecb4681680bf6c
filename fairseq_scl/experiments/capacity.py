"""How many runs to train in parallel, and the GPU and threads of each."""

import os

from fairseq_scl.device import visible_gpus


def worker_environments(device: str, jobs: int) -> list[dict[str, str]]:
    """Assign GPU k mod N to worker k; workers on the CPU see no GPU.

    Returns:
        the environment variables to set for each worker; empty for ``cuda`` on a
        machine without a GPU.
    """
    gpus = [gpu.entry for gpu in visible_gpus()] if device == "cuda" else [""]
    workers = range(jobs if gpus else 0)
    return [{"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} for k in workers]


def default_jobs(device: str, jobs_per_gpu: int = 1) -> int:
    """Return how many runs to train in parallel on all GPUs or all processors."""
    if device == "cuda":
        return len(visible_gpus()) * jobs_per_gpu
    return max(1, available_cores() // (_omp_num_threads() or 1))


def threads_each(jobs: int) -> int:
    """Return threads per worker: ``OMP_NUM_THREADS`` or an equal share of the cores."""
    return _omp_num_threads() or max(1, available_cores() // jobs)


def _omp_num_threads() -> int:
    """Return ``OMP_NUM_THREADS`` (the first of a list); 0 if it is unset or invalid."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def available_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        here = len(os.sched_getaffinity(0))
    else:
        here = os.cpu_count() or 1
    # Some clusters do not bind a job to the processors that it requested.
    return min(here, int(os.environ.get("SLURM_CPUS_PER_TASK", here)))
