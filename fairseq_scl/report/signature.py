"""The signature of a table: one line that says how its numbers were made."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.tables import Table


def table_signature(table: Table, records: Sequence[Record]) -> str:
    """Return the line for a whole table of the paper.

    Where its runs differ, all values are there with commas between them. ``data`` is
    the checksum of the only data folder, or one over the checksums of all of them.
    """
    parts: dict[str, object] = {
        "table": table.name,
        "protocol": table.protocol,
        f"{table.repeated}s": table.repetitions,
    }
    if not records:
        return _line(parts)
    parts |= _shared_settings(records)
    parts["valid"] = _values(r.settings.get("validations") for r in records)
    parts["precision"] = _precisions(records)
    parts |= _shared_origin(records)
    parts["commit"] = _values(_commit(r) for r in records)
    return _line(parts)


def unlike(records: Sequence[Record]) -> list[str]:
    """List what should be the same in all runs of a table, but is not."""
    found = {
        **{
            name: _values(record.settings.get(name) for record in records)
            for name in ("device", "batching", "max_positions")
        },
        "precision": _precisions(records),
        **{
            name: _values(record.origin.get(name) for record in records)
            for name in ("python", "machine", "gpu", "driver", "threads")
        },
        **{
            name: _values(_version(record, name) for record in records)
            for name in ("torch", "numpy", "fairseq", "fairseq-scl")
        },
        "commit": _values(_commit(record) for record in records),
    }
    return [f"{k}: {v.replace(',', ', ')}" for k, v in found.items() if "," in v]


def _shared_settings(records: Sequence[Record]) -> dict[str, object]:
    names = {"updates": "updates", "batch": "batch_size", "batching": "batching"}
    names["lr"] = "learning_rate"
    return {
        short: _values(record.settings.get(name) for record in records)
        for short, name in names.items()
    }


def _precisions(records: Sequence[Record]) -> str:
    """Join the precisions; a record without one is older than the choice."""
    return _values(record.settings.get("precision", "fp32") for record in records)


def _shared_origin(records: Sequence[Record]) -> dict[str, object]:
    parts: dict[str, object] = {
        "device": _values(record.settings.get("device") for record in records)
    }
    for name in ("torch", "fairseq", "fairseq-scl"):
        parts[name] = _values(_version(record, name) for record in records)
    data = sorted({record.origin["sha256"]["data"] for record in records})
    if len(data) > 1:
        data = [hashlib.sha256("\n".join(data).encode()).hexdigest()]
    parts["data"] = data[0][:8]
    parts["encoder"] = _values(r.origin["sha256"]["encoder"][:8] for r in records)
    return parts


def _version(record: Record, name: str) -> str | None:
    versions = record.origin["versions"]
    if name == "fairseq" and "fairseq-fixed" in versions:
        name = "fairseq-fixed"
    return versions.get(name)


def _commit(record: Record) -> str | None:
    """Return the commit in 8 digits; + stands for changes that were not committed."""
    commit = record.origin.get("commit")
    return commit and commit[:8] + ("+" if record.origin.get("changed_files") else "")


def _values(values: Iterable[object]) -> str:
    """Join distinct values by commas, numbers in their order."""

    def rank(value: object) -> tuple[float, str]:
        return (value if isinstance(value, (int, float)) else 0, str(value))

    return ",".join(str(value) for value in sorted(set(values), key=rank))


def _line(parts: Mapping[str, object]) -> str:
    return "|".join(f"{name}:{value}" for name, value in parts.items())
