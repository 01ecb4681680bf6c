"""Check the arguments of ``Classifier``, which Python passes on whatever they are."""

import difflib
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Number
from pathlib import Path
from typing import Any

from fairseq_scl.errors import InputError

# Options of ``fairseq-scl train`` that apply to texts in memory.
SETTINGS = (
    *("encoder", "objective", "recipe", "updates", "learning_rate", "batch_size"),
    *("max_positions", "pooling", "class_weights", "seed", "device", "precision"),
    *("labels_are_classes", "cache"),
)


def check_settings(settings: Iterable[str]) -> None:
    """Refuse settings that are not in :data:`SETTINGS`.

    Raises:
        InputError: names the setting, the most similar one and all that are allowed.
    """
    for name in settings:
        if name not in SETTINGS:
            close = difflib.get_close_matches(name, SETTINGS, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(
                f"there is no setting {name!r}: allowed are {', '.join(SETTINGS)}{hint}"
            )


def items_of(given: Any, name: str) -> list[Any]:
    """Return the items of a list, an iterator, a column of a table or a 1-D array.

    Raises:
        InputError: iterating over it gives something else than texts or labels:
            characters, keys, columns, or items in no order.
    """
    other = (str, bytes, bytearray, Mapping, set, frozenset)
    listed = isinstance(given, Iterable) and not isinstance(given, other)
    if not listed or getattr(given, "ndim", 1) != 1:
        plain = given is None or isinstance(given, str | bytes | Number)
        shown = repr(given)[:60] if plain else f"a {type(given).__name__}"
        raise InputError(f"{name} is {shown}: it must be a list of {name}")
    return list(given)


def path_of(given: Any, name: str) -> Path:
    """Return a path.

    Raises:
        InputError: it is not a string or a ``Path``.
    """
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"{name} is {given!r}: it must be a path")
    return Path(given)


def check_max_tokens(given: Any) -> None:
    """Refuse a size of batches that is not an integer of at least 1.

    Raises:
        InputError: names ``max_tokens`` and its value.
    """
    if not isinstance(given, Integral) or int(given) < 1:
        raise InputError(f"max_tokens is {given!r}: it must be an integer, at least 1")
