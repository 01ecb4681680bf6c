"""Starting training: a run as data, its ``fairseq-train`` command, its record."""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

import fairseq_scl
from fairseq_scl.data.binarise import class_counts, fairseq_flags
from fairseq_scl.data.files import sha256, write_then_rename
from fairseq_scl.data.folders import MANIFEST, check_holds_only
from fairseq_scl.device import check_device, describe_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.loss_grid import CONTRASTIVE, option_flags
from fairseq_scl.experiments.records import (
    REPRESENTATIONS,
    Record,
    origin,
    read_metrics,
    read_record,
    read_representations,
    write_record,
)

METRICS = "metrics.jsonl"
LOG = "train.log"
ERROR = "error.txt"
BEST = "checkpoint_best.pt"
LEFT = (METRICS, LOG, ERROR, REPRESENTATIONS, "checkpoint*.pt*", "crash.pt*")
PRECISION_FLAGS = {
    "fp32": (),
    "tf32": ("--tf32",),
    "fp16": (  # the loss scale of fairseq's published GLUE recipe
        *("--fp16", "--fp16-init-scale", "4", "--threshold-loss-scale", "1"),
        *("--fp16-scale-window", "128"),
    ),
    "bf16": ("--bf16",),
}


@dataclass(frozen=True)
class Run:
    """One fine-tuning run; every field but the folders moves the number.

    Attributes:
        name: of the run, unique in its experiment; also the name of its folder.
        data: a data folder with ``train``, ``valid`` and ``test``.
        encoder: an encoder folder.
        scl_lambda: λ of Eq. 1; 0 is plain cross-entropy.
        scl_temperature: τ of Eq. 3.
        seed: of initial head, batches and dropout.
        updates: budget of parameter updates.
        validations: how often to validate, evenly along the budget.
        batch_size: sentences in a batch, all contrasted with each other.
        chunk: sentences computed at a time where a batch is larger; ``None`` for all.
        learning_rate: peak of the schedule.
        batching: ``fixed``, ``reshuffled`` or ``balanced``.
        max_positions: longest input in tokens; the rest is cut off.
        device: ``cpu`` or ``cuda``.
        keep_checkpoint: keep the best checkpoint after the run.
        packed: compute real tokens only, see docs/training.md; the same results.
        precision: ``fp32``, ``tf32``, ``bf16``, or ``fp16`` with loss scaling.
        max_valid_steps: batches of a validation; ``None`` for all of them.
        criterion: whose loss it is, of this project.
        options: of the criterion, beside λ and τ, by their names with ``_``.
        representations: measure what the best model makes of the test examples;
            :mod:`~fairseq_scl.experiments.in_process` does it, no command.
        cell: what a table calls the run: task, n, loss and so on.
    """

    name: str
    data: Path
    encoder: Path
    scl_lambda: float
    scl_temperature: float
    seed: int
    updates: int
    validations: int = 4
    batch_size: int = 16
    chunk: int | None = None
    learning_rate: float = 1e-5
    batching: str = "fixed"
    max_positions: int = 512
    device: str = "cpu"
    keep_checkpoint: bool = False
    packed: bool = True
    precision: str = "fp32"
    max_valid_steps: int | None = None
    criterion: str = CONTRASTIVE
    options: dict[str, Any] = field(default_factory=dict)
    representations: bool = False
    cell: dict[str, Any] = field(default_factory=dict)


def command(run: Run, folder: Path) -> list[str]:
    """Return the ``fairseq-train`` command of a run, as one would type it.

    Optimisation is fairseq's published GLUE recipe with the paper's Adam, dropout 0.1
    and batch size (section 4.1): polynomial decay after 6% warm-up, weight decay 0.1,
    betas (0.9, 0.98), no clipping. It validates on ``valid`` and ``test`` together and
    keeps the checkpoint that is best on ``valid``.
    """
    every = max(1, run.updates // run.validations)
    # By default fairseq trains one run on all GPUs that it sees.
    device = ["--distributed-world-size", "1", *PRECISION_FLAGS[run.precision]]
    device += ["--cpu"] if run.device == "cpu" else []
    few = run.max_valid_steps
    valid = [] if few is None else ["--max-valid-steps", str(few)]
    packed = ["--packed"] if run.packed else []
    if run.chunk is not None and run.chunk < run.batch_size:
        packed += ["--contrastive-batch", str(run.batch_size)]
        packed += ["--chunk", str(run.chunk)]
    return [
        *["fairseq-train", str(run.data)],
        *["--user-dir", str(Path(fairseq_scl.__file__).parent)],
        *["--restore-file", str(run.encoder / "model.pt")],
        *["--reset-optimizer", "--reset-dataloader", "--reset-meters"],
        *["--task", "sentence_prediction_scl", *fairseq_flags(run.data)],
        *["--batching", run.batching, "--metrics-file", str(folder / METRICS)],
        *["--shorten-method", "truncate"],
        *["--criterion", run.criterion],
        *["--scl-lambda", str(run.scl_lambda)],
        *["--scl-temperature", str(run.scl_temperature)],
        *option_flags(run.options),
        *architecture_flags(run.encoder, run.max_positions),
        *["--dropout", "0.1", "--attention-dropout", "0.1"],
        *["--optimizer", "fused_adam", "--adam-betas", "(0.9, 0.98)"],
        *["--adam-eps", "1e-06"],
        *["--lr", str(run.learning_rate), "--lr-scheduler", "polynomial_decay"],
        *["--warmup-updates", str(round(0.06 * run.updates))],
        *["--total-num-update", str(run.updates), "--max-update", str(run.updates)],
        *["--weight-decay", "0.1", "--clip-norm", "0", "--seed", str(run.seed)],
        *["--batch-size", str(run.batch_size), "--required-batch-size-multiple", "1"],
        *["--batch-size-valid", "64", "--valid-subset", "valid,test"],
        *["--validate-interval", "1000000", "--validate-interval-updates", str(every)],
        *["--save-interval", "1000000", "--save-interval-updates", str(every)],
        *["--keep-interval-updates", "1", "--no-epoch-checkpoints"],
        *["--no-last-checkpoints", "--no-save-optimizer-state"],
        *["--best-checkpoint-metric", "n_correct", "--maximize-best-checkpoint-metric"],
        *["--save-dir", str(folder)],
        # A loader process would cost more to start each epoch than it saves.
        *["--num-workers", "0"],
        *["--log-format", "simple", "--log-interval", "10"],
        *[*packed, *valid, *device],
    ]


def run_training(
    run: Run,
    folder: Path,
    on_validation: Callable[[int], None] = lambda done: None,
    train: Callable[[Run, list[str], Path], int] | None = None,
) -> Record:
    """Do a run unless its record is there, and return the record.

    The folder gets ``train.log``, ``metrics.jsonl`` and, last, ``record.json``; a run
    that failed leaves ``error.txt`` and no record.

    Args:
        run: what to do.
        folder: of this run; leftovers of an unfinished attempt in it are deleted.
        on_validation: called with the number of validations done so far, now and then.
        train: what trains instead of a ``fairseq-train`` process of its own: takes the
            run, its command and folder, returns the exit status.

    Raises:
        InputError: training failed, there is no such device or it lacks the precision,
            or the folder holds the record of another run or other files.
    """
    if record := done_record(run, folder):
        return record
    check_device(run.device, run.precision)
    argv = command(run, folder)
    check_holds_only(folder, LEFT)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    start = time.monotonic()
    if train is None:
        status = _train(argv, folder, on_validation)
    else:
        status = train(run, argv, folder)
    seconds = time.monotonic() - start
    metrics = folder / METRICS
    found = read_metrics(metrics) if metrics.exists() else {}
    if status or not found.get("valid") or not found.get("test"):
        raise InputError(_explain_failure(argv, folder, status))
    for leftover in folder.glob("checkpoint*.pt"):
        if leftover.name != BEST or not run.keep_checkpoint:
            leftover.unlink()
    classes = {subset: class_counts(run.data, subset) for subset in ("valid", "test")}
    made = {
        **origin(_checksums(run)),
        **describe_device(run.device),
        "classes": classes,
        "threads": torch.get_num_threads(),
    }
    record = Record(
        _settings(run),
        found["valid"],
        found["test"],
        seconds,
        argv,
        made,
        read_representations(folder / REPRESENTATIONS),
    )
    write_record(folder, record)
    return record


def done_record(run: Run, folder: Path) -> Record | None:
    """Return the record of a run that has been done, ``None`` if it has not.

    Data and encoder folders may have moved since, but not changed.

    Raises:
        InputError: the folder holds the record of another run; names what differs.
    """
    record = read_record(folder)
    if record is None:
        return None
    changed = changed_settings(run, record)
    checksums = _checksums(run)
    done_with = record.origin.get("sha256", {})
    changed += [key for key, value in checksums.items() if done_with.get(key) != value]
    if changed:
        raise InputError(
            f"{folder} holds a run with other settings ({', '.join(changed)}): choose "
            "another output folder or delete it"
        )
    return record


def changed_settings(
    run: Run, record: Record, ignored: Collection[str] = ()
) -> list[str]:
    """Return the settings in which a record differs from a run, folders left out.

    A setting that the record does not know came later, and its default is what was
    done before.
    """
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(run)
    }
    ignored = {"data", "encoder", "keep_checkpoint", *ignored}
    return [
        key
        for key, value in _settings(run).items()
        if key not in ignored and record.settings.get(key, defaults[key]) != value
    ]


def _settings(run: Run) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(run).items()}


def _checksums(run: Run) -> dict[str, str]:
    manifest, model = run.data / MANIFEST, run.encoder / "model.pt"
    return {"data": _checksum(manifest), "encoder": _checksum(model)}


def _train(
    argv: list[str], folder: Path, on_validation: Callable[[int], None]
) -> int | None:
    """Run the command, its output to the log; return the exit status."""
    # Threads that wait asleep cost nothing on a free machine; those that wait spinning,
    # the default, take the processor from each other on a busy one (2 times slower).
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONUNBUFFERED": "1"}
    if "--cpu" in argv:  # fairseq would reserve memory of a GPU all the same
        environment["CUDA_VISIBLE_DEVICES"] = ""
    metrics = folder / METRICS
    with open(folder / LOG, "w", encoding="utf-8") as log:
        log.write(shlex.join(argv) + "\n")
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "fairseq_cli.train", *argv[1:]],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            while process.poll() is None:
                time.sleep(0.5)
                if metrics.exists():
                    on_validation(metrics.read_text().count('"subset": "test"'))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode


def _explain_failure(argv: list[str], folder: Path, status: int | None) -> str:
    log = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    with write_then_rename(folder / ERROR) as file:
        file.write(f"exit status {status}\n{shlex.join(argv)}\n\n")
        file.write("\n".join(log[-40:]) + "\n")
    (folder / "crash.pt").unlink(missing_ok=True)  # fairseq's, as large as the model
    return (
        f"training failed with exit status {status}, see {folder / LOG}: "
        f"{last_line(folder / LOG)}"
    )


def last_line(path: Path) -> str:
    """Return the last line of a log that is not blank."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((s.strip() for s in reversed(lines) if s.strip()), "no output")


@functools.cache
def _checksum(path: Path) -> str:
    return sha256(path)
