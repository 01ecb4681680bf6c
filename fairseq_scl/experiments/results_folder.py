"""The results folder: its files, reading and writing them, and its locks.

``table.json`` is the table of the results. ``runs/NAME/`` is the folder of a run. It
holds ``record.json`` if the run is done or ``error.txt`` if it failed, the log, the
metrics and, if requested, the best checkpoint. ``locks/NAME.lock`` is locked by the
process that trains the run; the kernel releases the lock when that process dies.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from fairseq_scl.data.files import explained, try_lock, write_json, write_then_rename
from fairseq_scl.data.folders import check_holds_only
from fairseq_scl.errors import InputError, first_few
from fairseq_scl.experiments.records import Origin, Record, Settings, Validation
from fairseq_scl.experiments.tables import Table, parse_table
from fairseq_scl.typed import Finite, Name, as_type, read_as

TABLE = "table.json"
RECORD = "record.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
ERROR = "error.txt"
BEST = "checkpoint_best.pt"
REPRESENTATIONS = "representations.json"
LEFT = (METRICS, LOG, ERROR, REPRESENTATIONS, "checkpoint*.pt*", "crash.pt*")


def run_folder(folder: Path, name: str) -> Path:
    """Return the folder of a run."""
    return folder / "runs" / name


def is_done(folder: Path, name: str) -> bool:
    """Return whether a run has a record."""
    return (run_folder(folder, name) / RECORD).exists()


def is_failed(folder: Path, name: str) -> bool:
    """Return whether a run has an error and no record."""
    return (run_folder(folder, name) / ERROR).exists() and not is_done(folder, name)


def is_ended(folder: Path, name: str) -> bool:
    """Return whether a run has a record or an error."""
    return is_done(folder, name) or is_failed(folder, name)


def claim(folder: Path, name: str) -> AbstractContextManager[bool]:
    """Lock a run within a block, as :func:`~fairseq_scl.data.files.try_lock` does."""
    return try_lock(folder / "locks" / f"{name}.lock")


def clear_run(place: Path) -> None:
    """Create an empty folder for a run, deleting leftovers of an unfinished attempt.

    Raises:
        InputError: the folder holds other files.
    """
    check_holds_only(place, LEFT)
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)


def write_error(place: Path, text: str) -> None:
    """Write into the folder of a run why it failed."""
    place.mkdir(parents=True, exist_ok=True)
    with write_then_rename(place / ERROR) as file:
        file.write(text)


def best_checkpoint(place: Path) -> Path:
    """Return the checkpoint of a finished run.

    Raises:
        InputError: the run did not keep it, or it was deleted.
    """
    if not (place / BEST).is_file():
        raise InputError(
            f"{place / BEST} is missing: delete {place} and train the run again, with "
            "--keep-checkpoints if it is of 'fairseq-scl run'"
        )
    return place / BEST


def forget_failures(folder: Path, names: Iterable[str]) -> None:
    """Clear failure markers, so that failed runs are retried."""
    for name in names:
        with explained(run_folder(folder, name)):
            (run_folder(folder, name) / ERROR).unlink(missing_ok=True)


def read_error(place: Path) -> str:
    """Return the last line of why a run failed."""
    return last_line((place / ERROR).read_text(encoding="utf-8", errors="replace"))


def last_line(log: str) -> str:
    """Return the last nonblank line of the text of a log."""
    lines = reversed(log.splitlines())
    return next((line.strip() for line in lines if line.strip()), "no output")


def write_record(place: str | Path, record: Record) -> None:
    """Write a run's record into its folder atomically."""
    row = {"schema": Record.SCHEMA, **msgspec.to_builtins(record)}
    write_json(Path(place, RECORD), row)


def read_record(place: str | Path) -> Record | None:
    """Read the record in a run's folder; ``None`` if the run has not finished.

    Raises:
        InputError: the record is damaged or of another format version.
    """
    path = Path(place, RECORD)
    if not os.path.lexists(path):
        return None
    record = read_as(path, Record)
    as_type(record.settings, Settings, f"{path}: settings")
    as_type(record.origin, Origin, f"{path}: origin")
    return record


def finished_runs(folder: Path) -> dict[Path, Record]:
    """Return the records of a results folder by the folder of their run, sorted."""
    places = sorted(path.parent for path in folder.glob(f"runs/*/{RECORD}"))
    return {place: record for place in places if (record := read_record(place))}


class _MetricsLine(msgspec.Struct):
    """The keys of a metrics line that a record keeps."""

    subset: str
    update: int
    n_correct: Finite
    n_total: Finite
    ce_loss: Finite
    scl_loss: Finite | None = None


def read_metrics(path: str | Path) -> dict[str, list[Validation]]:
    """Read a ``--metrics-file``: validations by subset, in order of updates.

    A resumed run may have validated twice at the same update; the later one counts.

    Raises:
        InputError: a line is invalid; names file and line.
    """
    found: dict[str, dict[int, Validation]] = {}
    text = Path(path).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            keys = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not a metrics line") from error
        row = as_type(keys, _MetricsLine, where)
        values = {
            "update": row.update,
            "correct": int(row.n_correct),
            "total": int(row.n_total),
            "ce_loss": row.ce_loss,
            "scl_loss": row.scl_loss,
        }
        validation = as_type(values, Validation, where)
        found.setdefault(row.subset, {})[row.update] = validation
    return {subset: [rows[u] for u in sorted(rows)] for subset, rows in found.items()}


def read_floors(place: Path) -> tuple[tuple[int, float], ...]:
    """Read pairs of update and floor of the SCL term on validation data.

    The result is empty if the run's metrics lack the floor.
    """
    path = place / METRICS
    if not path.is_file():
        return ()
    floors = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if row["subset"] == "valid":
                floors[int(row["update"])] = float(row["scl_floor"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()  # written by an older version
    return tuple(sorted(floors.items()))


def read_representations(place: Path) -> dict[str, Finite] | None:
    """Read a run's measures of its representations; ``None`` if it has none."""
    path = place / REPRESENTATIONS
    return read_as(path, dict[str, Finite]) if path.is_file() else None


class _TableFile(msgspec.Struct, forbid_unknown_fields=True):
    """The contents of ``table.json``."""

    SCHEMA: ClassVar[int] = 1

    table: dict[str, Any]
    data: Name
    models: dict[str, Name]
    order: list[str] | None = None


def check_table(folder: Path, table: Table) -> None:
    """Check that a results folder is missing, empty or of the same table.

    The caption and the number of repetitions may change; finished runs stay valid.

    Raises:
        InputError: the folder holds results of another table, settings or protocol.
    """
    path = folder / TABLE
    if path.exists():
        there, _, _ = read_table(folder)
        old, new = (msgspec.to_builtins(t, str_keys=True) for t in (there, table))
        changed = [
            text
            for key in Table.__struct_fields__
            if key not in ("caption", "repetitions")
            for text in _differences(key, old[key], new[key])
        ]
        if changed:
            raise InputError(
                f"{path} has other settings ({first_few(changed, '; ')}): choose "
                "another folder or delete it"
            )
    elif (folder / "runs").exists() or (folder / "locks").exists():
        raise InputError(
            f"{folder} holds runs or locks but lacks {TABLE}, so their table is "
            "unknown: choose another folder"
        )


def write_table(
    folder: Path, table: Table, data: Path, models: Mapping[str, Path]
) -> None:
    """Write ``table.json`` of a folder that :func:`check_table` accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {
        "schema": _TableFile.SCHEMA,
        "table": msgspec.to_builtins(table, str_keys=True),
        "data": str(data.absolute()),
        "models": {loss: str(model.absolute()) for loss, model in models.items()},
        "order": list(table.losses),  # because JSON files have sorted keys
    }
    write_json(folder / TABLE, row)


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    """Yield a text for each value that differs, with its keys joined by dots."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        was, now = ("unset" if v is None else json.dumps(v) for v in (old, new))
        yield f"{name} was {was}, is now {now}"


def read_table(folder: Path) -> tuple[Table, Path, dict[str, Path]]:
    """Read the table of a results folder, its data folder and its models by loss.

    Raises:
        InputError: ``table.json`` is missing, or of another protocol or format.
    """
    path = folder / TABLE
    if not path.exists():
        raise InputError(
            f"{path} is missing: it must be a results folder of 'fairseq-scl run'"
        )
    row = read_as(path, _TableFile)
    found = dict(row.table)
    name = found.pop("name", None)
    losses = as_type(found.get("losses"), dict[str, Any], f"{path}: table.losses")
    order = sorted(losses) if row.order is None else row.order
    for key, there in (("order", order), ("models", row.models)):
        if set(there) != set(losses):
            raise InputError(
                f"{path}: {key} has {', '.join(there)}: it must have the losses "
                f"{', '.join(losses)}"
            )
    found["losses"] = {loss: losses[loss] for loss in order}
    models = {loss: Path(model) for loss, model in row.models.items()}
    return parse_table(name, found, str(path)), Path(row.data), models
