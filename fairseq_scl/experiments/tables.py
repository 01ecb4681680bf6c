"""A table of the paper as data: what ``conf/tableN.yaml`` may say."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

import fairseq_scl
from fairseq_scl.data.files import check_name
from fairseq_scl.data.tasks import TASKS
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.objectives import Grid, parse_loss
from fairseq_scl.experiments.variants import VARIANTS, variants_of

PROTOCOL = 1
FULL = "full"
# Each is held in memory; the largest table of the paper has 1,500.
MOST_RUNS = 100_000
FEW_SHOT, FULL_DATA = "few-shot", "full-data"
CONF = Path(fairseq_scl.__file__).parent / "conf"
DEFAULT_POINT = {"scl_lambda": 0.9, "scl_temperature": 0.3}


@dataclass(frozen=True)
class Training:
    """How every run of a table trains; what is a mapping goes by size of the data.

    Attributes:
        learning_rate: peak of the schedule.
        updates: budget of parameter updates; ``None`` where ``epochs`` gives it.
        epochs: passes over the training set; ``None`` where ``updates`` is given.
        validations: how often to validate, evenly along the budget.
        batching: ``fixed``, ``reshuffled`` or ``balanced``.
        max_positions: longest input in tokens.
        chunk: sentences computed at a time where a batch is larger (gradient caching);
            ``None`` for all.
        max_valid_steps: batches of a validation; ``None`` for all of them.
        representations: measure what the best model makes of the test examples.
    """

    learning_rate: Any = 1e-5
    updates: Any = None
    epochs: Any = None
    validations: Any = 10
    batching: str = "fixed"
    max_positions: int = 512
    chunk: int | None = None
    max_valid_steps: int | None = None
    representations: bool = False


@dataclass(frozen=True)
class Table:
    """What a YAML file says; the runs of it are made in ``plan.py``.

    Attributes:
        name: of the file.
        caption: one line for above the table.
        selection: the paper's rule, ``few-shot`` or ``full-data``.
        repetitions: training samples (few-shot) or seeds (full data).
        tasks: as the paper spells them, or folders of your own data.
        sizes: examples in a training set, or ``full``.
        losses: of each loss the options of its criterion, lists of values to try.
        batch_sizes: sentences in a batch, a row of the table each.
        temperatures: of the back-translations that are added to a training set, a
            column of the table each; ``original`` for none added. Empty where nothing
            is.
        flipped: shares of the training labels that are wrong on purpose, a column
            each; 0 for none. Empty where labels are as they are.
        training: what all runs share.
        protocol: version of these rules; results of another are not mixed.
    """

    name: str
    caption: str
    selection: str
    repetitions: int
    tasks: tuple[str, ...]
    sizes: tuple[int | str, ...]
    losses: dict[str, Grid]
    batch_sizes: tuple[int, ...] = (16,)
    temperatures: tuple[float | str, ...] = ()
    flipped: tuple[float, ...] = ()
    training: Training = field(default_factory=Training)
    protocol: int = PROTOCOL

    @property
    def repeated(self) -> str:
        """What a repetition is called."""
        return "sample" if self.selection == FEW_SHOT else "seed"

    @property
    def places(self) -> list[dict[str, Any]]:
        """Where the losses are compared, in the order of the table.

        Each has ``task``, ``n``, ``batch_size`` and, in a table that has them,
        ``flipped`` and ``temperature``.
        """
        names = ["task", "n", "batch_size"]
        values: list[tuple[Any, ...]] = [self.tasks, self.sizes, self.batch_sizes]
        for variant, chosen in variants_of(self):
            names.append(variant.key)
            values.append(chosen)
        found = itertools.product(*values)
        return [dict(zip(names, place, strict=True)) for place in found]


def load_table(name: str, settings: Sequence[str] = ()) -> Table:
    """Read a table's YAML file.

    Args:
        name: ``table4`` for the one of this package, or the path of your own file.
        settings: ``key=value`` for keys of ``training``, as ``learning_rate=1e-4`` or
            ``updates={20: 60, 100: 120}``.

    Raises:
        InputError: no such file, or a key or value in it that cannot be.
    """
    path = CONF / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONF.glob("*.yaml")))
        raise InputError(f"there is no table {name!r}: choose of {known}, or a file")
    found = _read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no settings")
    training = found.get("training", {})
    if not isinstance(training, dict):
        raise InputError(f"{path}: training is {training!r}, it must be a mapping")
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or key not in Training.__annotations__:
            raise InputError(
                f"--set {setting!r}: it must be KEY=VALUE with one of the keys "
                f"{', '.join(Training.__annotations__)}"
            )
        training = {**training, key: _read_yaml(value, f"--set {setting!r}")}
        if key in ("updates", "epochs"):  # the one replaces the other
            training["epochs" if key == "updates" else "updates"] = None
    return parse_table(path.stem, {**found, "training": training}, str(path))


def parse_table(name: str, found: Mapping[str, Any], where: str) -> Table:
    """Make a table of what a file holds, and check it.

    Args:
        name: of the table.
        found: keys and values as in the YAML file.
        where: the file, for messages.

    Raises:
        InputError: names file, key, value and what is allowed.
    """
    check_name(name, f"{where}: the name of the table")
    _check_keys(found, Table, where, without=("name",))
    if found.get("protocol") != PROTOCOL:
        raise InputError(
            f"{where}: protocol is {found.get('protocol')!r}, this version of "
            f"fairseq-scl knows {PROTOCOL}"
        )
    training = found.get("training") or {}
    _check_keys(training, Training, f"{where}: training")
    losses = {}
    if not isinstance(found.get("losses"), dict) or not found["losses"]:
        raise InputError(f"{where}: losses must name at least one loss")
    for loss, grid in found["losses"].items():
        check_name(str(loss), f"{where}: losses: a name")
        losses[str(loss)] = parse_loss(str(loss), grid, where)
    table = Table(
        **{
            **found,
            "name": name,
            "losses": losses,
            "training": Training(**training),
            "tasks": tuple(found["tasks"]),
            "sizes": tuple(found["sizes"]),
            "batch_sizes": tuple(found.get("batch_sizes", (16,))),
            **{
                variant.setting: variant.parse(found.get(variant.setting, ()), where)
                for variant in VARIANTS
            },
        }
    )
    _check_values(table, where)
    _check_count(table, where)
    return table


def smoke(table: Table) -> Table:
    """Return the table with the least work that goes through all of its path."""
    training = replace(
        table.training, updates=2, epochs=None, validations=1, max_valid_steps=1
    )
    losses: dict[str, Grid] = {
        loss: {
            key: (usual if (usual := DEFAULT_POINT.get(key)) in values else values[0],)
            for key, values in grid.items()
        }
        for loss, grid in table.losses.items()
    }
    return replace(table, training=training, losses=losses, repetitions=3)


def for_size(value: Any, n: int | str) -> Any:
    """Return a setting of :class:`Training` for one size."""
    return value[n] if isinstance(value, dict) else value


class _Loader(yaml.SafeLoader):
    """Reads YAML without aliases: with them few bytes stand for any number of values.

    Or for a list that holds itself.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor}: write it out", event.start_mark
            )
        return super().compose_node(parent, index)


def _read_yaml(text: str, where: str) -> Any:
    try:
        return _numeric(yaml.load(text, _Loader))
    except RecursionError:
        raise InputError(f"{where} is no YAML: it is too deeply nested") from None
    except yaml.YAMLError as error:
        raise InputError(
            f"{where} is no YAML: {' '.join(str(error).split())}"
        ) from None


def _numeric(value: Any) -> Any:
    """Read ``1e-4`` as the number it is meant to be; YAML 1.1 asks for ``1.0e-4``."""
    if isinstance(value, dict):
        return {key: _numeric(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_numeric(v) for v in value]
    return float(value) if isinstance(value, str) and is_number(value) else value


def _check_keys(
    found: Mapping[str, Any], kind: type, where: str, without: Sequence[str] = ()
) -> None:
    allowed = [key for key in kind.__annotations__ if key not in without]
    unknown = [key for key in found if key not in allowed]
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}, known are {', '.join(allowed)}"
        )
    if kind is Table:
        for key in ("caption", "selection", "repetitions", "tasks", "sizes"):
            if not found.get(key):
                raise InputError(f"{where}: {key} is missing")
        lists = (variant.setting for variant in VARIANTS)
        for key in ("tasks", "sizes", "batch_sizes", *lists):
            if not isinstance(found.get(key, []), (list, tuple)):
                raise InputError(f"{where}: {key} is {found[key]!r}, not a list")


def _check_values(table: Table, where: str) -> None:
    def refuse(key: str, value: Any, allowed: str) -> None:
        raise InputError(f"{where}: {key} is {value!r}, it must be {allowed}")

    if table.selection not in (FEW_SHOT, FULL_DATA):
        refuse("selection", table.selection, f"{FEW_SHOT} or {FULL_DATA}")
    for task in table.tasks:
        if not isinstance(task, str):
            refuse("tasks", task, f"names like {', '.join(TASKS)}")
        check_name(task, f"{where}: tasks: a name")
    for key, values in (
        ("repetitions", [table.repetitions]),
        ("batch_sizes", table.batch_sizes),
        ("sizes", [size for size in table.sizes if size != FULL]),
    ):
        for value in values:
            if not isinstance(value, int) or value < 1:
                refuse(key, value, "a number of at least 1")
    if table.selection == FEW_SHOT and FULL in table.sizes:
        refuse("sizes", FULL, "numbers of examples where selection is few-shot")
    if table.selection == FULL_DATA and set(table.sizes) != {FULL}:
        refuse("sizes", list(table.sizes), f"[{FULL}] where selection is full-data")
    training = table.training
    if (training.updates is None) == (training.epochs is None):
        raise InputError(f"{where}: training needs either updates or epochs")
    for key in ("chunk", "max_positions", "max_valid_steps"):
        value = getattr(training, key)
        if value is not None and (not isinstance(value, int) or value < 1):
            refuse(f"training: {key}", value, "a number of at least 1")
    if not isinstance(training.representations, bool):
        value = training.representations
        refuse("training: representations", value, "true or false")
    for key in ("updates", "epochs", "validations", "learning_rate"):
        value = getattr(training, key)
        for n in table.sizes:
            if isinstance(value, dict) and n not in value:
                raise InputError(f"{where}: training: {key} has none for the size {n}")
            one = for_size(value, n)
            whole = key != "learning_rate"
            if one is not None and (
                not isinstance(one, int if whole else (int, float)) or one <= 0
            ):
                refuse(f"training: {key}", one, "a number above 0")


def _check_count(table: Table, where: str) -> None:
    lists = [table.tasks, table.sizes, table.batch_sizes]
    lists += [chosen for _, chosen in variants_of(table)]
    points = [math.prod(map(len, grid.values())) for grid in table.losses.values()]
    runs = math.prod(map(len, lists)) * table.repetitions * sum(points)
    if runs > MOST_RUNS:
        raise InputError(
            f"{where}: tasks, sizes, losses and the {table.repetitions} repetitions "
            f"multiply to {runs:,} runs, at most {MOST_RUNS:,} are planned"
        )


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
