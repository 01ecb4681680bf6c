"""Values from files, validated against a type before they are used.

A type is a dataclass or a ``msgspec.Struct`` whose annotations say what is allowed:
``Annotated[int, msgspec.Meta(ge=1)]``, ``Literal["few-shot", "full-data"]``.
Constraints on several fields are checked in ``__post_init__``, which raises
``ValueError``.
"""

import json
import os
import re
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from fairseq_scl.errors import InputError

T = TypeVar("T")
PLACE = re.compile(
    r"(?P<what>.*?)(?: - at (?:`key` in )?`(?P<place>[^`]*)`)?", re.DOTALL
)
# The largest existing files, tokenizer.json of multilingual models, have 20 MB.
LARGEST_JSON = 1 << 28
SHOWN = 60  # characters of a value shown in a message

Checksum = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0, le=10**15)]
Positive = Annotated[int, Meta(ge=1, le=10**15)]
# The bounds also refuse NaN, because every comparison with it is false.
Finite = Annotated[float, Meta(gt=-1e30, lt=1e30)]
# Allowed values of λ in Eq. 1 and τ in Eq. 3, and the options that have these ranges.
# With a lower τ, the rounding of a similarity in float32 decides.
Lambda = Annotated[float, Meta(ge=0, le=1)]
Tau = Annotated[float, Meta(ge=1e-6, le=1e6)]
Rate = Annotated[float, Meta(gt=0, le=1)]
# When to fit the classification head by logistic regression.
BEFORE, AFTER = "before", "after"
RegressionHead = Literal["before", "after"]
RANGES: dict[str, Any] = {"scl_lambda": Lambda, "scl_temperature": Tau}


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, is not JSON, or is too large or too deeply
            nested; the message names the file.
    """
    try:
        if (size := os.path.getsize(path)) > LARGEST_JSON:
            raise InputError(
                f"{path} has {size:,} bytes: at most {LARGEST_JSON:,} are allowed"
            )
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"cannot read {path} as JSON: too deeply nested") from None
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"missing file: {path}") from None
    except (ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path} as JSON: {why}") from error


def read_as(path: str | Path, kind: type[T]) -> T:
    """Read a JSON file and convert it to a type.

    If the type has a class variable ``SCHEMA``, the file's ``schema`` must equal it.

    Raises:
        InputError: the file is missing, is not JSON, has another version, or does not
            match the type; the message names the file, the field, its value and what is
            allowed.
    """
    found = read_json(path)
    version = getattr(kind, "SCHEMA", None)
    if version is not None and isinstance(found, dict):
        there = found.pop("schema", None)
        if there != version or isinstance(there, bool):
            raise InputError(
                f"{path}: schema is {there!r}, but this version of fairseq-scl reads "
                f"{version}: delete the file or use another folder"
            )
    return as_type(found, kind, str(path))


def as_type(value: Any, kind: type[T], where: str) -> T:
    """Convert plain values (mappings, lists, numbers, strings) to a type.

    Conversion is strict: a string is never accepted as a number. ``where`` is the
    source of the value, a file or flag.

    Raises:
        InputError: the value does not match; the message names ``where``, the field,
            its value and what is allowed.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True)  # JSON has no other keys
    except msgspec.ValidationError as error:
        found = PLACE.fullmatch(str(error))
        what, place = (found["what"], found["place"]) if found else (str(error), None)
        what = what.replace("`", "")
        names = (place or "$").removeprefix("$").removeprefix(".")
        if what.startswith("Expected"):
            what += _shown(value, names)
        elif what.startswith(("Invalid enum", "Invalid value", "Object contains")):
            what += _allowed(kind, names)
        raise InputError(
            f"{where}: {names + ': ' if names else ''}{what[0].lower()}{what[1:]}"
        ) from None


def check_ranges(settings: Any) -> None:
    """Check the options of :data:`RANGES`, which are attributes of ``settings``.

    Raises:
        InputError: names the flag, its value and what is allowed.
    """
    for name, allowed in RANGES.items():
        as_type(getattr(settings, name), allowed, f"--{name.replace('_', '-')}")


def _shown(value: Any, place: str) -> str:
    """Return the value at a path such as ``valid[0].correct``, truncated if long."""
    for name, number in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", place):
        if number == "...":  # any key of a mapping; show the whole mapping
            break
        try:
            value = value[int(number)] if number else value[name]
        except (KeyError, IndexError, TypeError):
            return ""
    text = repr(value)
    return f", found {text if len(text) <= SHOWN else text[:SHOWN] + '…'}"


def _allowed(kind: Any, place: str) -> str:
    """Return the allowed fields or words at a path, if they are easy to list."""
    tagged = [getattr(one, "__struct_config__", None) for one in get_args(kind)]
    tags = [one.tag for one in tagged if one and one.tag_field == place]
    for name in filter(None, re.sub(r"\[[^]]*\]", "", place).split(".")):
        # The field of an array or a union belongs to its parts.
        parts = [one for one in (kind, *get_args(kind)) if isinstance(one, type)]
        hints = (get_type_hints(one).get(name) for one in parts)
        kind = next(filter(None, hints), None)
    allowed = tags or list(getattr(kind, "__struct_fields__", ()))
    left = [kind]
    while left:
        part = left.pop(0)
        if get_origin(part) is Literal:
            allowed += get_args(part)
        else:
            left += get_args(part)
    return f", allowed are {', '.join(map(str, allowed))}" if allowed else ""
