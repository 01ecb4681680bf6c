"""Values from files, checked against a type before anything else sees them.

A type is a dataclass or a ``msgspec.Struct`` whose annotations say what is allowed:
``Annotated[int, msgspec.Meta(ge=1)]``, ``Literal["few-shot", "full-data"]``. What
depends on several fields is checked in the ``__post_init__`` of the type, which raises
``ValueError``.
"""

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fairseq_scl.data.files import read_json
from fairseq_scl.errors import InputError

T = TypeVar("T")
PLACE = re.compile(r"(?P<what>.*?)(?: - at `(?P<place>[^`]*)`)?", re.DOTALL)
SHOWN = 60  # characters of a value in a message


def read_as(path: str | Path, kind: type[T]) -> T:
    """Read a JSON file as a value of a type.

    Args:
        path: the file.
        kind: the type; its class variable ``SCHEMA``, where it has one, is what the
            file's ``schema`` must be.

    Raises:
        InputError: the file is missing, is not JSON, is of another version, or does
            not hold such a value; names the file, the field, its value and what is
            allowed.
    """
    found = read_json(path)
    version = getattr(kind, "SCHEMA", None)
    if version is not None and isinstance(found, dict):
        there = found.pop("schema", None)
        if there != version or isinstance(there, bool):
            raise InputError(
                f"{path}: schema is {there!r}, and this version of fairseq-scl reads "
                f"{version}: delete the file or use another folder"
            )
    return as_type(found, kind, str(path))


def as_type(value: Any, kind: type[T], where: str) -> T:
    """Turn plain values (mappings, lists, numbers, strings) into a value of a type.

    Nothing is converted silently: a string is never taken for a number.

    Args:
        value: from JSON or YAML.
        kind: the type.
        where: the file or flag that the value is from, for the message.

    Raises:
        InputError: names ``where``, the field, its value and what is allowed.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = PLACE.fullmatch(str(error))
        what, place = (found["what"], found["place"]) if found else (str(error), None)
        what = what.replace("`", "")
        names = (place or "$").removeprefix("$").removeprefix(".")
        shown = _shown(value, names) if what.startswith("Expected") else ""
        raise InputError(
            f"{where}: {names + ': ' if names else ''}"
            f"{what[0].lower()}{what[1:]}{shown}"
        ) from None


def _shown(value: Any, place: str) -> str:
    """Return the value at a place such as ``valid[0].correct``, cut if it is long."""
    for name, number in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", place):
        try:
            value = value[int(number)] if number else value[name]
        except (KeyError, IndexError, TypeError, ValueError):
            return ""  # "[...]" stands for any key of a mapping
    text = repr(value)
    return f", found {text if len(text) <= SHOWN else text[:SHOWN] + '…'}"
