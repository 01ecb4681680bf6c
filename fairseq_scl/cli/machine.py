"""Options of ``fairseq-scl run`` about the machine to train on."""

import argparse
from dataclasses import dataclass

from fairseq_scl.cli.options import (
    MOST_TIMES,
    add_device,
    add_precision,
    key_values,
    number,
)
from fairseq_scl.data.texts import counted
from fairseq_scl.device import available_device, check_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.capacity import (
    default_jobs,
    threads_each,
    worker_environments,
)
from fairseq_scl.experiments.slurm import SlurmSettings


@dataclass(frozen=True)
class Machine:
    """Where to train.

    Attributes:
        device: ``cpu`` or ``cuda``.
        jobs: number of parallel runs on this machine, or of concurrent Slurm jobs.
        slurm: resources to request from Slurm; ``None`` to train on this machine.
    """

    device: str
    jobs: int
    slurm: SlurmSettings | None = None


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("where to train")
    group.add_argument(
        "--jobs",
        **number(1, MOST_TIMES),
        help="parallel runs (default: on GPUs, their number times --jobs-per-gpu; on "
        "the CPU, one per processor, or processors / OMP_NUM_THREADS if that is set); "
        "with --executor slurm, concurrent jobs (default: 1)",
    )
    group.add_argument(
        "--jobs-per-gpu",
        **number(1, MOST_TIMES),
        help="runs that share a GPU (default: 1)",
    )
    add_device(group, "train")
    parser.set_defaults(device=None)  # on Slurm it depends on the requested resources
    add_precision(group, "train")
    group.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="train in processes on this machine, or in jobs on a Slurm cluster",
    )
    _add_slurm(parser.add_argument_group("with --executor slurm, see docs/slurm.md"))


def _add_slurm(group: argparse._ArgumentGroup) -> None:
    # Without defaults, because all of them need --executor slurm.
    default, longer = SlurmSettings, "longer than the longest run takes"
    group.add_argument(
        "--slurm-partition",
        metavar="NAME",
        help="partition (default: that of the cluster)",
    )
    for name, least, what in (  # Slurm may give notice a minute early
        ("minutes", 5, f"time limit per job, {longer} (default: {default.minutes})"),
        ("cpus", 1, f"processors per job (default: {default.cpus})"),
        ("gpus", 0, f"GPUs per job (default: {default.gpus})"),
        ("memory-gb", 1, "memory per job (default: that of the cluster)"),
    ):
        group.add_argument(f"--slurm-{name}", **number(least), help=what)
    group.add_argument(
        "--slurm-setup",
        action="append",
        metavar="LINE",
        help="shell line to run at the start of a job, such as 'module load cuda'",
    )
    group.add_argument(
        "--slurm-option",
        action="append",
        metavar="KEY=VALUE",
        help="further sbatch option, such as account=me or qos=low",
    )


def find_machine(arguments: argparse.Namespace) -> Machine:
    """Return where to train, by default on all GPUs if there are any.

    Raises:
        InputError: an option has an invalid value or contradicts another, or the device
            is missing or does not support the precision.
    """
    slurm = _slurm_settings(arguments)
    device = _device(arguments.device, slurm)
    per_gpu = arguments.jobs_per_gpu
    if per_gpu is not None and device == "cpu":
        raise InputError(
            f"--jobs-per-gpu is {per_gpu}, but the device is 'cpu': use --jobs"
        )
    is_elsewhere = slurm is not None or arguments.dry_run
    if device == "cpu" or not is_elsewhere:
        check_device(device, arguments.precision)
    if slurm is not None:
        return Machine(device, slurm.jobs, slurm)
    return Machine(device, arguments.jobs or default_jobs(device, per_gpu or 1))


def describe(machine: Machine) -> str:
    """Describe where runs are trained, one line per GPU worker."""
    if machine.slurm is not None:
        gpus = machine.slurm.gpus
        return f"up to {machine.jobs} Slurm jobs, GPUs per job: {gpus}"
    if machine.device == "cpu":
        threads = threads_each(machine.jobs)
        workers = counted(machine.jobs, "worker")
        return f"{workers} on the CPU, threads per worker: {threads}"
    plan = worker_environments(machine.device, machine.jobs)
    if not plan:
        return "there is no GPU on this machine"
    return "\n".join(
        f"worker {k}: {name}={value}"
        for k, environment in enumerate(plan)
        for name, value in environment.items()
    )


def _device(given: str | None, slurm: SlurmSettings | None) -> str:
    if slurm is None:
        return given or available_device()
    asked = slurm.gpus or any(
        key.startswith(("gpus", "gres", "tres")) and "gpu" in f"{key}={value}"
        for key, value in slurm.options.items()
    )
    if given == "cuda" and not asked:
        raise InputError(
            "--device is cuda, but --slurm-gpus is 0: request at least 1, or a kind of "
            "GPU with --slurm-option gres=gpu:KIND:1"
        )
    return given or ("cuda" if asked else "cpu")


def _slurm_settings(arguments: argparse.Namespace) -> SlurmSettings | None:
    given = {
        name.removeprefix("slurm_"): value
        for name, value in vars(arguments).items()
        if name.startswith("slurm_") and value is not None
    }
    if arguments.executor != "slurm":
        for name, value in given.items():
            flag = f"--slurm-{name.replace('_', '-')}"
            raise InputError(f"{flag} is {value!r}, which needs --executor slurm")
        return None
    return SlurmSettings(
        jobs=arguments.jobs or 1,
        jobs_per_gpu=arguments.jobs_per_gpu or 1,
        setup=tuple(given.pop("setup", ())),
        options=key_values("--slurm-option", given.pop("option", ())),
        **given,
    )
