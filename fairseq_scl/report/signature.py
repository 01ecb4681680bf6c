"""The signature of a table: one line with everything that its numbers depend on."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.tables import Table

# Settings that a signature names only where they are not the default.
RARE = {
    "pooling": "head_pooling",
    "positions": "max_positions",
    "chunk": "chunk",
    "packed": "packed",
    "graphs": "cuda_graphs",
    "valid_steps": "max_valid_steps",
}


def table_signature(table: Table, records: Sequence[Record]) -> str:
    """Return the signature of a whole table.

    If its runs differ, all values are listed with commas. ``data`` is the checksum of
    the data folder, or of the checksums of all data folders.
    """
    parts: dict[str, object] = {
        "table": table.name,
        "protocol": table.protocol,
        f"{table.repeated}s": table.repetitions,
    }
    if not records:
        return _line(parts)
    parts["losses"] = _losses(table)
    names = {"updates": "updates", "batch": "batch_size", "batching": "batching"}
    names |= {"lr": "learning_rate", "valid": "validations"}
    for short, name in names.items():
        parts[short] = _values(r.settings.get(name) for r in records)
    for short, name in RARE.items():
        found = _settings(records, name)
        if found != str(getattr(Run, name)):
            parts[short] = found
    parts |= {name: _settings(records, name) for name in ("precision", "device")}
    return _line(parts | _of_origins([r.origin for r in records]))


def benchmark_signature(
    name: str, settings: Mapping[str, object], origins: Sequence[Mapping[str, Any]]
) -> str:
    """Return the signature of a benchmark of accuracy, ``name``, on data folders."""
    return _line({"benchmark": name, **settings, **_of_origins(origins)})


def evaluation_signature(examples: int, made: Mapping[str, Any]) -> str:
    """Return the signature of an evaluation.

    ``made`` has the split of a data folder or the columns of a table, device,
    precision, temperature, and the origin of the result.
    """
    origin = made["origin"]
    versions = origin["versions"]
    parts = {name: origin["sha256"][name][:8] for name in ("model", "data")}
    parts |= {name: made[name] for name in ("split", "columns") if name in made}
    parts |= {"examples": examples, "precision": made["precision"]}
    parts |= {"device": made["device"], "temperature": f"{made['temperature']:.4g}"}
    parts |= {name: versions.get(name) for name in ("torch", "fairseq-scl")}
    return _line(parts)


def mixed_settings(records: Sequence[Record]) -> list[str]:
    """Return settings and versions that should be the same in all runs but differ."""
    names = ("device", "batching", *RARE.values(), "precision")
    found = {name: _settings(records, name) for name in names}
    for name in ("python", "machine", "gpu", "driver", "threads"):
        found[name] = _values(r.origin.get(name) for r in records)
    for name in ("torch", "numpy", "fairseq", "fairseq-scl"):
        found[name] = _values(_version(r.origin, name) for r in records)
    found["commit"] = _values(_commit(r.origin) for r in records)
    return [f"{k}: {v.replace(',', ', ')}" for k, v in found.items() if "," in v]


def _losses(table: Table) -> str:
    """Return the start of the checksum of all options of the losses."""
    text = json.dumps(table.losses, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _of_origins(origins: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return versions, commits and the start of the checksums of data and encoders."""
    parts = {}
    for name in ("torch", "fairseq", "fairseq-scl"):
        parts[name] = _values(_version(one, name) for one in origins)
    data = sorted({one["sha256"]["data"] for one in origins})
    if len(data) > 1:
        data = [hashlib.sha256("\n".join(data).encode()).hexdigest()]
    parts["data"] = data[0][:8]
    user_dirs = {one["sha256"].get("user_dir") for one in origins}
    if user_dirs != {None}:
        parts["user_dir"] = _values(found and found[:8] for found in user_dirs)
    parts["encoder"] = _values(one["sha256"]["encoder"][:8] for one in origins)
    parts["commit"] = _values(_commit(one) for one in origins)
    return parts


def _settings(records: Iterable[Record], name: str) -> str:
    """Return the values of a setting, which records of older versions may lack."""
    return _values(r.settings.get(name, getattr(Run, name)) for r in records)


def _version(origin: Mapping[str, Any], name: str) -> str | None:
    versions = origin["versions"]
    if name == "fairseq" and "fairseq-fixed" in versions:
        name = "fairseq-fixed"
    return versions.get(name)


def _commit(origin: Mapping[str, Any]) -> str | None:
    """Return the first 8 digits of the commit, and + if there were local changes."""
    commit = origin.get("commit")
    return commit and commit[:8] + ("+" if origin.get("changed_files") else "")


def _values(values: Iterable[object]) -> str:
    """Join distinct values by commas; numbers are in numerical order."""

    def rank(value: object) -> tuple[float, str]:
        return (value if isinstance(value, (int, float)) else 0, str(value))

    return ",".join(str(value) for value in sorted(set(values), key=rank))


def _line(parts: Mapping[str, object]) -> str:
    return "|".join(f"{name}:{value}" for name, value in parts.items())
