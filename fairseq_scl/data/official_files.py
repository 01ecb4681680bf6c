"""The official files of the paper's tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq_scl.data.readers import TableFile
from fairseq_scl.data.tasks import (
    HELD_OUT,
    MRPC_BOTH,
    MRPC_ID_COLUMNS,
    MRPC_IDS,
    Task,
)
from fairseq_scl.data.texts import decoded_lines
from fairseq_scl.errors import InputError


def task_table(task: Task, folder: str | Path, part: str) -> TableFile:
    """Find a task's official file.

    Args:
        task: from the table of tasks.
        folder: holds the task's own folder, as the official archive makes it, or is it.
        part: ``train`` or ``held_out``.

    Raises:
        InputError: the file is in neither place.
    """
    file = task.files[part]
    places = [Path(folder, task.folder), Path(folder)]
    for place in places:
        if (place / file).is_file():
            return TableFile(place / file, task.layout)
        if task.name == "MRPC" and (place / MRPC_BOTH).is_file():
            return TableFile(place / MRPC_BOTH, task.layout, _in_mrpc(place, part))
    raise InputError(
        f"there is no {file} of {task.name} in {places[0]} or {places[1]}: get it with "
        f"'fairseq-scl download --task {task.name} --to {folder}'"
    )


def check_size(task: Task, part: str, table: TableFile, found: int) -> None:
    """Refuse an official file that has not the number of rows that it should have.

    Args:
        task: from the table of tasks.
        part: ``train`` or ``held_out``.
        table: the file.
        found: the number of its rows, those left out included.

    Raises:
        InputError: names the file and both numbers.
    """
    if found != task.rows[part]:
        raise InputError(
            f"{table.path} has {found:,} rows, but {task.name} has "
            f"{task.rows[part]:,}: the file is not complete, or --partial says that a "
            "part of the task is wanted"
        )


def _in_mrpc(folder: Path, part: str) -> Callable[[dict[str, Any]], bool]:
    """Tell the rows of MRPC's two sets apart by the id list of GLUE."""
    lines = decoded_lines(folder / MRPC_IDS)
    held_out = {tuple(line.split()) for _, line in lines}

    def belongs(row: dict[str, Any]) -> bool:
        ids = tuple(row[column] for column in MRPC_ID_COLUMNS)
        return (ids in held_out) == (part == HELD_OUT)

    return belongs
