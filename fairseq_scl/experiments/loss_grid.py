"""The losses of a table: each names a criterion and the option values to try."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.utils import import_user_module

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.selection import GRID
from fairseq_scl.experiments.variants import in_short_form
from fairseq_scl.typed import AFTER, RANGES, Finite, Name, Rate, RegressionHead, as_type

CRITERION = "criterion"
CONTRASTIVE = "sentence_prediction_scl"
Grid = dict[str, tuple[Any, ...]]
KINDS: dict[type, Any] = {bool: bool, float: Finite, int: int, str: Name}
# Fields of Run that a loss may set for itself.
LEARNING_RATE, REGRESSION_HEAD = "learning_rate", "regression_head"
OWN_RANGES: dict[str, Any] = {LEARNING_RATE: Rate, REGRESSION_HEAD: RegressionHead}


def parse_loss(loss: str, found: Any, where: str) -> Grid:
    """Read one loss of a table.

    It maps options of the criterion, named as in its Hydra block, to a value or a list
    of values. ``criterion`` names the criterion, by default
    ``sentence_prediction_scl``. A ``learning_rate`` replaces that of the table, and
    ``regression_head`` is that of ``Run``.

    Returns:
        the values of each option, in the order in which the criterion declares them.

    Raises:
        InputError: names file, key, value and what is allowed.
    """
    name = found.get(CRITERION, CONTRASTIVE) if isinstance(found, dict) else CONTRASTIVE
    if isinstance(name, (list, tuple)) and len(name) == 1:  # from table.json
        name = name[0]
    if not isinstance(name, str) or name not in criterions():
        raise InputError(
            f"{where}: losses: {loss}: criterion is {name!r}: it must be one of "
            f"{', '.join(criterions())}"
        )
    kinds = {key: kind for key, (kind, _) in _options(name).items()}
    kinds |= {LEARNING_RATE: float, REGRESSION_HEAD: str}
    if not isinstance(found, dict) or set(found) - {*kinds, CRITERION} or not found:
        raise InputError(
            f"{where}: losses: {loss} is {found!r}: it must map options to values; "
            f"the options are {', '.join(kinds)}"
        )
    grid: Grid = {CRITERION: (name,)} if CRITERION in found else {}
    for key, kind in kinds.items():
        if key in found:
            grid[key] = _values(
                key, kind, found[key], f"{where}: losses: {loss}: {key}"
            )
    return grid


def import_user_dir(folder: Any, where: str) -> None:
    """Import a folder that registers criterions, as ``--user-dir`` does.

    Raises:
        InputError: the folder is missing or importing it fails; gives the reason.
    """
    if not isinstance(folder, str) or not Path(folder, "__init__.py").is_file():
        raise InputError(
            f"{where}: user_dir is {folder!r}: it must be a folder with an __init__.py "
            "that registers criterions"
        )
    try:
        import_user_module(Namespace(user_dir=folder))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where}: user_dir {folder} cannot be imported: {type(error).__name__}: "
            f"{reason}"
        ) from error


def criterions() -> list[str]:
    """Return the criterions that a table may use: all except fairseq's own."""
    return [
        name
        for name in CRITERION_DATACLASS_REGISTRY
        if not CRITERION_REGISTRY[name].__module__.startswith("fairseq.")
    ]


def varying_options(grid: Grid) -> tuple[str, ...]:
    """Return the options that identify a run among those of its loss.

    These are all numeric options of its criterion and all others with several values. λ
    is left out for a loss without the contrastive term.
    """
    plain = grid.get("scl_lambda") == (0.0,) and "scl_temperature" not in grid
    return tuple(
        key
        for key, values in grid.items()
        if key != CRITERION
        and not (plain and key == "scl_lambda")
        and (len(values) > 1 or type(values[0]) in (int, float))
        and (len(values) > 1 or key != LEARNING_RATE)
    )


def default_point(grid: Grid) -> Grid:
    """Return a grid of one point: the defaults if listed, else the first values."""
    known = _options(grid.get(CRITERION, (CONTRASTIVE,))[0])
    defaults = {key: default for key, (_, default) in known.items()}
    return {
        key: (defaults[key] if defaults.get(key) in values else values[0],)
        for key, values in grid.items()
    }


def loss_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss of a run: ``criterion`` and its options by name.

    Args:
        point: one value per option of the table's loss, and ``criterion`` if the table
            names it; missing λ and τ are set to the criterion's defaults.
    """
    name = point.get(CRITERION, CONTRASTIVE)
    known = _options(name)
    defaults = {key: known[key][1] for key in GRID if key in known}
    own = own_settings(point)
    options = {key: value for key, value in point.items() if key not in own}
    return {CRITERION: name, **defaults, **options}


def own_settings(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run, except its loss, that a point of a loss sets.

    With a regression head after training, a run validates once, after fitting it.
    """
    found = {k: point[k] for k in (LEARNING_RATE, REGRESSION_HEAD) if k in point}
    return found | ({"validations": 1} if found.get(REGRESSION_HEAD) == AFTER else {})


def _options(name: str) -> dict[str, tuple[type, Any]]:
    """Return type and default of the options that a criterion adds to fairseq's."""
    stock = {field.name for field in fields(SentencePredictionConfig)}
    return {
        field.name: (field.type, field.default)
        for field in fields(CRITERION_DATACLASS_REGISTRY[name])
        if field.name not in stock and field.type in KINDS
    }


def _values(key: str, kind: type, found: Any, where: str) -> tuple[Any, ...]:
    values = found if isinstance(found, (list, tuple)) else [found]
    one: Any = {**RANGES, **OWN_RANGES}.get(key, KINDS[kind])
    several: Any = tuple[one, ...]
    values = as_type(values, several, where)
    # In short form, because names of runs have it.
    if not values or len(set(map(in_short_form, values))) < len(values):
        raise InputError(
            f"{where} is {list(values)}: it must be one or more distinct values, "
            "compared to six digits"
        )
    return tuple(values)
