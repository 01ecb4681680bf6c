"""Tables as data: the format of ``conf/tableN.yaml``."""

import collections
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta
from msgspec.structs import replace

import fairseq_scl
from fairseq_scl.convert.pooling import Pooling
from fairseq_scl.data.files import check_name
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.loss_grid import (
    Grid,
    default_point,
    import_user_dir,
    parse_loss,
)
from fairseq_scl.experiments.variants import variants_of
from fairseq_scl.typed import Name, Positive, Rate, as_type

PROTOCOL = 1
FULL = "full"
# All runs are held in memory; the largest table of the paper has 1,500.
MOST_RUNS = 100_000
FEW_SHOT, FULL_DATA = "few-shot", "full-data"
CONF = Path(fairseq_scl.__file__).parent / "conf"
Size = Positive | Literal["full"]
Temperature = Annotated[float, Meta(gt=0, le=1000)]


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How every run of a table trains; a mapping gives a value per size of the data.

    The fields are those of :class:`~fairseq_scl.experiments.command.Run`, except for
    ``epochs``, the number of passes over the training set, an alternative to
    ``updates``.
    """

    learning_rate: Rate | dict[Size, Rate] = 1e-5
    updates: Positive | dict[Size, Positive] | None = None
    epochs: Positive | dict[Size, Positive] | None = None
    validations: Positive | dict[Size, Positive] = 10
    batching: Literal["fixed", "reshuffled", "balanced"] = "fixed"
    max_positions: Positive = 512
    head_pooling: Pooling = "cls"
    chunk: Positive | None = None
    max_valid_steps: Positive | None = None
    representations: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Check that the budget is given once."""
        if (self.updates is None) == (self.epochs is None):
            raise ValueError("training needs either updates or epochs")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The contents of a table's YAML file; ``plan.py`` turns it into runs.

    Attributes:
        name: name of the file without its suffix.
        caption: title of the table, one line.
        selection: the paper's selection rule, ``few-shot`` or ``full-data``.
        repetitions: number of training samples (few-shot) or seeds (full data).
        tasks: tasks as the paper spells them, or folders of your own data.
        sizes: numbers of training examples, or ``full``.
        losses: the options of each loss's criterion, and its own settings of a run,
            with lists of values to try.
        batch_sizes: sentences in a batch; one row of the table each.
        temperatures: sampling temperatures of the back-translations added to the
            training set, one column each; ``original`` adds none. Empty for a table
            without augmentation.
        user_dir: a folder that registers further criterions, for ``--user-dir``;
            ``None`` if all losses are from this package.
        flipped: fractions of the training labels to flip (label noise), one column
            each; 0 flips none. Empty for a table without label noise.
        training: settings that all runs share.
        protocol: version of these rules; results of different versions are not mixed.
    """

    name: str
    caption: Name
    selection: Literal["few-shot", "full-data"]
    repetitions: Positive
    tasks: Annotated[tuple[str, ...], Meta(min_length=1)]
    sizes: Annotated[tuple[Size, ...], Meta(min_length=1)]
    losses: Annotated[dict[str, Grid], Meta(min_length=1)]
    batch_sizes: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (16,)
    temperatures: tuple[Temperature | Literal["original"], ...] = ()
    flipped: tuple[Annotated[float, Meta(ge=0, lt=1)], ...] = ()
    user_dir: Name | None = None
    training: Training
    protocol: int

    def __post_init__(self) -> None:
        """Check what the types of single fields cannot express."""
        if self.protocol != PROTOCOL:
            raise ValueError(
                f"protocol is {self.protocol}: this version of fairseq-scl supports "
                f"{PROTOCOL}"
            )
        for task in self.tasks:
            check_name(task, "tasks: a name")
        names = {key: getattr(self, key) for key in ("tasks", "sizes", "batch_sizes")}
        for variant, chosen in variants_of(self):
            names[variant.setting] = tuple(map(variant.name, chosen))
        for key, values in names.items():
            if len(set(values)) < len(values):
                shown = list(getattr(self, key))
                raise ValueError(f"{key} is {shown}: its values must differ")
        full = self.selection == FULL_DATA
        if any((size == FULL) != full for size in self.sizes):
            allowed = f"[{FULL}]" if full else "numbers of examples"
            raise ValueError(
                f"sizes is {list(self.sizes)}: it must be {allowed} if selection is "
                f"{self.selection}"
            )
        for key in Training.__struct_fields__:
            value = getattr(self.training, key)
            for n in self.sizes:
                if isinstance(value, dict) and n not in value:
                    raise ValueError(f"training: {key} lacks a value for the size {n}")

    @property
    def repeated(self) -> str:
        """The term for one repetition: ``sample`` or ``seed``."""
        return "sample" if self.selection == FEW_SHOT else "seed"

    @property
    def places(self) -> list[dict[str, Any]]:
        """The places at which losses are compared, in the order of the table.

        Each has ``task``, ``n``, ``batch_size`` and, if the table has them, ``flipped``
        and ``temperature``.
        """
        names = ["task", "n", "batch_size"]
        values: list[tuple[Any, ...]] = [self.tasks, self.sizes, self.batch_sizes]
        for variant, chosen in variants_of(self):
            names.append(variant.key)
            values.append(chosen)
        found = itertools.product(*values)
        return [dict(zip(names, place, strict=True)) for place in found]


def table_names() -> list[str]:
    """Return the names of the tables in this package."""
    return sorted(file.stem for file in CONF.glob("*.yaml"))


def load_table(name: str, settings: Sequence[str] = ()) -> Table:
    """Read a table's YAML file.

    Args:
        name: name of a table in this package (``table4``), or the path of your own.
        settings: ``key=value`` for keys of ``training``, such as ``learning_rate=1e-4``
            or ``updates={20: 60, 100: 120}``.

    Raises:
        InputError: the file is missing, or has an invalid key or value.
    """
    path = CONF / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no table {name!r}: choose from {', '.join(table_names())}, or "
            "give a YAML file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    found = as_type(_read_yaml(text, str(path)), dict[str, Any], str(path))
    training = found.get("training", {})
    where = str(path)
    for setting in settings:
        training = as_type(training, dict[str, Any], f"{path}: training")
        key, sign, value = setting.partition("=")
        if not sign or key not in Training.__struct_fields__:
            raise InputError(
                f"--set {setting!r}: it must be KEY=VALUE with one of the keys "
                f"{', '.join(Training.__struct_fields__)}"
            )
        where = f"{path} with --set {' '.join(settings)}"
        training = {**training, key: _read_yaml(value, f"--set {setting!r}")}
        if key in ("updates", "epochs"):  # setting one replaces the other
            training["epochs" if key == "updates" else "updates"] = None
    if "training" in found or settings:
        found["training"] = training
    if isinstance(user_dir := found.get("user_dir"), str):
        found["user_dir"] = str((path.parent / user_dir).resolve())
    return parse_table(path.stem, found, where)


def parse_table(name: str, found: Mapping[str, Any], where: str) -> Table:
    """Build a table from the contents of a YAML file, named ``where`` in messages.

    Raises:
        InputError: names file, key, value and what is allowed.
    """
    check_name(name, f"{where}: the name of the table")
    if "name" in found:
        raise InputError(
            f"{where}: unknown key 'name': the name of a table is that of its file"
        )
    if found.get("user_dir") is not None:
        import_user_dir(found["user_dir"], where)
    losses = found.get("losses")
    if isinstance(losses, dict):
        for loss in losses:
            check_name(loss, f"{where}: losses: a name")
        losses = {loss: parse_loss(loss, grid, where) for loss, grid in losses.items()}
        found = {**found, "losses": losses}
    table = as_type({**found, "name": name}, Table, where)
    _check_count(table, where)
    return table


def smoke(table: Table) -> Table:
    """Return the table with the least work that still exercises the whole pipeline."""
    training = replace(
        table.training, updates=2, epochs=None, validations=1, max_valid_steps=1
    )
    losses = {loss: default_point(grid) for loss, grid in table.losses.items()}
    return replace(table, training=training, losses=losses, repetitions=3)


class _Loader(yaml.SafeLoader):
    """Read YAML, but refuse aliases and duplicate keys.

    With aliases, a few bytes can expand to any number of values, or to a list that
    contains itself.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor}: write it out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = collections.Counter(self.construct_object(key) for key, _ in node.value)
        for key, times in keys.items():
            if times > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-4 as a string; only 1.0e-4 is a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise InputError(f"{where} is not YAML: it is too deeply nested") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as e:
        # A tag that does not match its value, such as !!bool 3, raises various errors.
        raise InputError(f"{where} is not YAML: {' '.join(str(e).split())}") from None


def _check_count(table: Table, where: str) -> None:
    lists = [table.tasks, table.sizes, table.batch_sizes]
    lists += [chosen for _, chosen in variants_of(table)]
    points = [math.prod(map(len, grid.values())) for grid in table.losses.values()]
    runs = math.prod(map(len, lists)) * table.repetitions * sum(points)
    if runs > MOST_RUNS:
        raise InputError(
            f"{where}: tasks, sizes, losses and {table.repetitions} repetitions give "
            f"{runs:,} runs: at most {MOST_RUNS:,} are allowed"
        )
