"""Planning: list the runs of a table, and choose some of them."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from fairseq_scl.data.files import check_name
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.loss_grid import loss_of, own_settings, varying_options
from fairseq_scl.experiments.tables import FULL, Table
from fairseq_scl.experiments.variants import in_short_form, suffixes, variants_of
from fairseq_scl.input_format import read_manifest


def planned_runs(
    table: Table,
    data: Path,
    models: Mapping[str, Path],
    shared: Mapping[str, Any] | None = None,
) -> list[Run]:
    """List all runs of a table, whether or not their data exists.

    Args:
        table: the table to plan.
        data: folder with one subfolder per task, as written by ``prepare``.
        models: the encoder or model folder that training starts from, per loss.
        shared: further fields of every :class:`Run`, such as ``device``.

    Returns:
        the runs in the order of the table. Their ``cell`` identifies them: ``task``,
        ``n`` (number of examples or ``full``), ``batch_size``, ``flipped`` and
        ``temperature`` (a number or ``original``) if the table has them, ``loss``,
        ``scl_lambda``, ``scl_temperature`` and other options if the loss has them, and
        ``seed`` (the number of the seed or training sample).
    """
    runs = []
    for place, loss in itertools.product(table.places, table.losses):
        grid = table.losses[loss]
        varying = varying_options(grid)
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            for seed in range(table.repetitions):
                cell = {**place, "loss": loss, **{key: point[key] for key in varying}}
                cell["seed"] = seed
                run = _run(table, cell, data, models[loss], loss_of(point))
                runs.append(replace(run, **own_settings(point)))
    return [replace(run, **shared) for run in runs] if shared else runs


def choose(runs: Sequence[Run], only: str) -> list[Run]:
    """Choose the runs that match ``--only``, all if it is empty.

    An example is ``task=SST-2,n=20|100,lambda=0.9,sample=0-2``. A condition on a key
    applies only to runs with that key, so ``tau`` never excludes CE.

    Raises:
        InputError: a key is unknown, or a value or the whole matches no run; lists the
            alternatives.
    """
    names = {"lambda": "scl_lambda", "tau": "scl_temperature", "batch": "batch_size"}
    names |= {"sample": "seed", "seed": "seed", "task": "task", "n": "n"}
    names |= {"loss": "loss", "temperature": "temperature"}
    others = {key for run in runs for key in run.cell} - set(names.values())
    names |= {key: key for key in others}
    chosen = list(runs)
    for part in filter(None, (piece.strip() for piece in only.split(","))):
        key, sign, values = part.partition("=")
        if not sign or key not in names:
            raise InputError(
                f"--only {part!r}: it must be KEY=VALUE|VALUE with one of the keys "
                f"{', '.join(sorted(names))}"
            )
        cell_key = names[key]
        there = {str(run.cell[cell_key]) for run in runs if cell_key in run.cell}
        wanted: set[str] = set()
        for value in [v for v in values.split("|") if v] or [""]:
            matching = _matching(value, there)
            if not matching:
                allowed = ", ".join(sorted(there))
                why = f"{key} is one of {allowed}" if allowed else f"no run has a {key}"
                raise InputError(f"--only {part!r}: {value!r} matches nothing: {why}")
            wanted |= matching
        chosen = [
            run
            for run in chosen
            if cell_key not in run.cell or str(run.cell[cell_key]) in wanted
        ]
    if not chosen:
        raise InputError(f"--only {only!r} matches no run of the table")
    return chosen


def narrowed(table: Table, runs: Sequence[Run]) -> Table:
    """Restrict the places, losses and grids of a table to those of some of its runs."""

    def there(values: Any, key: str, cells: Sequence[Mapping[str, Any]]) -> Any:
        known = {cell[key] for cell in cells if key in cell}
        return tuple(value for value in values if not known or value in known)

    cells = [run.cell for run in runs]
    axes = {"tasks": "task", "sizes": "n", "batch_sizes": "batch_size"}
    axes |= {"temperatures": "temperature", "flipped": "flipped"}
    left = {name: there(getattr(table, name), key, cells) for name, key in axes.items()}
    losses = {}
    for loss in there(table.losses, "loss", cells):
        mine = [cell for cell in cells if cell["loss"] == loss]
        grid = table.losses[loss]
        losses[loss] = {key: there(grid[key], key, mine) for key in grid}
    return msgspec.structs.replace(table, losses=losses, **left)


def _run(
    table: Table,
    cell: dict[str, Any],
    data: Path,
    encoder: Path,
    loss: dict[str, Any],
) -> Run:
    n = cell["n"]
    training = {
        key: value[n] if isinstance(value, dict) else value
        for key, value in msgspec.structs.asdict(table.training).items()
    }
    updates, epochs = training.pop("updates"), training.pop("epochs")
    # Named as ``fairseq-scl prepare`` does.
    name = FULL if n == FULL else f"n{n}-sample{cell['seed']}"
    folder = data / cell["task"] / f"{name}{suffixes(cell)}"
    if updates is None:
        updates = _updates(folder, cell["batch_size"], epochs)
    training["validations"] = min(training["validations"], updates)
    return Run(
        name=_name(table, cell),
        data=folder,
        encoder=encoder,
        loss=loss,
        seed=cell["seed"],
        updates=updates,
        batch_size=cell["batch_size"],
        user_dir=None if table.user_dir is None else Path(table.user_dir),
        cell=cell,
        **training,
    )


def _name(table: Table, cell: Mapping[str, Any]) -> str:
    n = cell["n"]
    parts = [cell["task"], FULL if n == FULL else f"n{n}"]
    if len(table.batch_sizes) > 1:
        parts.append(f"batch{cell['batch_size']}")
    parts += [variant.name(cell[variant.key]) for variant, _ in variants_of(table)]
    parts.append(cell["loss"])
    short = {"scl_lambda": "lambda", "scl_temperature": "tau"}
    for key in varying_options(table.losses[cell["loss"]]):
        parts.append(f"{short.get(key, key)}{in_short_form(cell[key])}")
    name = "-".join([*parts, f"{table.repeated}{cell['seed']}"])
    return check_name(name, f"{table.name}: the name of a run")


def _updates(folder: Path, batch_size: int, epochs: int) -> int:
    """Return the number of updates in some epochs; 0 if the data does not exist yet."""
    if (manifest := read_manifest(folder)) is None:
        return 0
    if "train" not in manifest.examples:
        raise InputError(f"{folder / MANIFEST}: the key 'train' of examples is missing")
    return math.ceil(manifest.examples["train"] / batch_size) * epochs


def _matching(value: str, there: set[str]) -> set[str]:
    """Return the values in ``there`` that a range ``0-2`` or a number 0.90 matches."""
    ends = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", value)
    if value not in there and ends:
        low, high = map(int, ends.groups())
        numbers = {one for one in there if re.fullmatch("[0-9]{1,18}", one)}
        return {one for one in numbers if low <= int(one) <= high}
    return {
        known for known in there if known == value or _number(known) == _number(value)
    }


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
