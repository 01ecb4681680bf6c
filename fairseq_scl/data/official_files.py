"""The official files of the paper's tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq_scl.data.readers import TableFile
from fairseq_scl.data.tasks import HELD_OUT, MRPC_BOTH, MRPC_ID_COLUMNS, MRPC_IDS, Task
from fairseq_scl.data.texts import decoded_lines
from fairseq_scl.errors import InputError


def task_table(task: Task, folder: str | Path, part: str) -> TableFile:
    """Find a task's official file of ``train`` or ``held_out``.

    The folder is the task's as in the official archive, or its parent.

    Raises:
        InputError: the file is in neither folder.
    """
    file = task.files[part]
    places = [Path(folder, task.folder), Path(folder)]
    for place in places:
        if (place / file).is_file():
            return TableFile(place / file, task.layout)
        if task.name == "MRPC" and (place / MRPC_BOTH).is_file():
            return TableFile(place / MRPC_BOTH, task.layout, _in_mrpc(place, part))
    raise InputError(
        f"there is no {file} of {task.name} in {places[0]} or {places[1]}: download it "
        f"with 'fairseq-scl download --task {task.name} --to {folder}'"
    )


def check_size(task: Task, part: str, table: TableFile, found: int) -> None:
    """Refuse an official file with an unexpected number of rows, skipped ones included.

    Raises:
        InputError: names the file and both numbers.
    """
    if found != task.rows[part]:
        raise InputError(
            f"{table.path} has {found:,} rows, but {task.name} has "
            f"{task.rows[part]:,}: download the complete file, or use --partial to "
            "work with a part of the task"
        )


def _in_mrpc(folder: Path, part: str) -> Callable[[dict[str, Any]], bool]:
    """Select the rows of one of MRPC's two sets by the id list of GLUE."""
    held_out = {tuple(line.split()) for _, line in decoded_lines(folder / MRPC_IDS)}

    def belongs(row: dict[str, Any]) -> bool:
        ids = tuple(row[column] for column in MRPC_ID_COLUMNS)
        return (ids in held_out) == (part == HELD_OUT)

    return belongs
