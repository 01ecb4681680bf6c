"""Do a run: prepare its folder, train, and write its record."""

import functools
import hashlib
import shlex
import time
from collections.abc import Callable, Collection
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

from fairseq_scl.data.binarize import class_counts
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.device import check_device, describe_device
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run, command
from fairseq_scl.experiments.in_process import train_here
from fairseq_scl.experiments.loss_grid import CONTRASTIVE, CRITERION
from fairseq_scl.experiments.records import Record, origin, state_of_code
from fairseq_scl.experiments.results_folder import (
    BEST,
    LOG,
    METRICS,
    clear_run,
    last_line,
    read_metrics,
    read_record,
    read_representations,
    write_error,
    write_record,
)
from fairseq_scl.experiments.selection import GRID


def run_training(
    run: Run, folder: Path, train: Callable[[Run, list[str], Path], int] = train_here
) -> Record:
    """Do a run unless it already has a record, and return the record.

    Leftovers of an unfinished attempt in the folder are deleted. It gets ``train.log``,
    ``metrics.jsonl`` and finally ``record.json``. A failed run leaves ``error.txt`` and
    no record. ``train`` takes the run, its command and its folder, and returns an exit
    status.

    Raises:
        InputError: training failed, the device is missing or does not support the
            precision, or the folder holds the record of another run or other files.
    """
    if record := done_record(run, folder):
        return record
    check_device(run.device, run.precision)
    state_of_code()
    argv = command(run, folder)
    clear_run(folder)
    start = time.monotonic()
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
        record_settings(run),
        found["valid"],
        found["test"],
        seconds,
        argv,
        made,
        read_representations(folder),
    )
    write_record(folder, record)
    return record


def done_record(run: Run, folder: Path) -> Record | None:
    """Return the record of a finished run, ``None`` if the run has not finished.

    Data folder, encoder folder and ``user_dir`` may have moved since then, but their
    contents must be the same.

    Raises:
        InputError: the folder holds the record of another run; names the differences.
    """
    record = read_record(folder)
    if record is None:
        return None
    changed = changed_settings(run, record)
    if "options" in changed:  # of the loss
        ours = record_settings(run)["options"]
        theirs = record.settings.get("options", {})
        names = [n for n in {**theirs, **ours} if ours.get(n) != theirs.get(n)]
        changed[changed.index("options")] = ", ".join(names)
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
    """Return the settings in which a record differs from a run, except folders.

    A setting that the record lacks was added in a later version; its default is the
    earlier behavior.
    """
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(run)
    }
    defaults |= {CRITERION: CONTRASTIVE, "options": {}}
    ignored = {"data", "encoder", "user_dir", "keep_checkpoint", *ignored}
    return [
        key
        for key, value in record_settings(run).items()
        if key not in ignored
        and record.settings.get(key, defaults.get(key, MISSING)) != value
    ]


def record_settings(run: Run) -> dict[str, Any]:
    """Return the settings of a run in the form of a record.

    Criterion, λ and τ are top-level settings and other options of the loss are in
    ``options``, as in the first version of the format.
    """
    settings = asdict(run)
    options = settings.pop("loss")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    own = {key: options.pop(key) for key in (CRITERION, *GRID) if key in options}
    return {**settings, **own, "options": options}


_checksum = functools.cache(sha256)


def _checksums(run: Run) -> dict[str, str]:
    files = {"data": run.data / MANIFEST, "encoder": run.encoder / "model.pt"}
    found = {name: _checksum(path) for name, path in files.items()}
    if run.user_dir is not None:
        code = sorted(run.user_dir.rglob("*.py"))
        digests = "\n".join(f"{p.relative_to(run.user_dir)} {sha256(p)}" for p in code)
        found["user_dir"] = hashlib.sha256(digests.encode()).hexdigest()
    return found


def _explain_failure(argv: list[str], folder: Path, status: int) -> str:
    log = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    text = "\n".join(log.splitlines()[-40:])
    write_error(folder, f"exit status {status}\n{shlex.join(argv)}\n\n{text}\n")
    (folder / "crash.pt").unlink(missing_ok=True)  # fairseq's, as large as the model
    return (
        f"training failed with exit status {status}, see {folder / LOG}: "
        f"{last_line(log)}"
    )
