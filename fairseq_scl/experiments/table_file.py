"""The file in a folder of results that says which table they are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from fairseq_scl.data.files import write_json
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.tables import Table, parse_table
from fairseq_scl.typed import Name, as_type, read_as

TABLE = "table.json"


class _TableFile(msgspec.Struct, forbid_unknown_fields=True):
    """What a folder of results says of its table."""

    SCHEMA: ClassVar[int] = 1

    table: dict[str, Any]
    data: Name
    models: dict[str, Name]
    order: list[str] | None = None


def write_table(
    folder: Path, table: Table, data: Path, models: Mapping[str, Path]
) -> None:
    """Note in a folder of results which table they are of.

    Raises:
        InputError: it holds results of another table, settings or protocol.
    """
    path = folder / TABLE
    if path.exists():
        there, _, _ = read_table(folder)
        keys = Table.__struct_fields__
        changed = [key for key in keys if getattr(there, key) != getattr(table, key)]
        if changed:
            raise InputError(
                f"{path} is of other settings ({', '.join(changed)}): choose another "
                "--results or delete the folder"
            )
    elif (folder / "runs").exists() or (folder / "locks").exists():
        raise InputError(
            f"{folder} holds runs or locks, but no {TABLE} that says of which table: "
            "choose another --results"
        )
    folder.mkdir(parents=True, exist_ok=True)
    row = _TableFile(
        msgspec.to_builtins(table, str_keys=True),
        str(data.absolute()),
        {loss: str(model.absolute()) for loss, model in models.items()},
        list(table.losses),  # files of JSON are sorted, the first loss is one
    )
    write_json(path, {"schema": _TableFile.SCHEMA, **msgspec.to_builtins(row)})


def read_table(folder: Path) -> tuple[Table, Path, dict[str, Path]]:
    """Read which table a folder of results is of, and its data and models.

    Raises:
        InputError: there is none, or it is of another protocol or format.
    """
    path = folder / TABLE
    if not path.exists():
        raise InputError(
            f"{path} is missing: 'fairseq-scl run' writes it with its results"
        )
    row = read_as(path, _TableFile)
    found = dict(row.table)
    name = found.pop("name", None)
    losses = as_type(found.get("losses"), dict[str, Any], f"{path}: table.losses")
    order = sorted(losses) if row.order is None else row.order
    for key, there in (("order", order), ("models", row.models)):
        if set(there) != set(losses):
            raise InputError(
                f"{path}: {key} has {', '.join(there)}, it must have the losses "
                f"{', '.join(losses)}"
            )
    found["losses"] = {loss: losses[loss] for loss in order}
    models = {loss: Path(model) for loss, model in row.models.items()}
    return parse_table(name, found, str(path)), Path(row.data), models
