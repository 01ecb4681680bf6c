"""Options that several verbs have."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fairseq_scl.data.files import check_name
from fairseq_scl.data.folders import check_files
from fairseq_scl.device import PRECISIONS, visible_gpus
from fairseq_scl.errors import InputError

# More than any file has rows or batch has tokens; what is repeated is bounded lower.
MOST, MOST_TIMES = 10**9, 1000


def add_device(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str = "compute"
) -> None:
    """Add ``--device``: a GPU where there is one; ``what`` is done there."""
    parser.add_argument(
        "--device",
        type=_device,
        choices=("cpu", "cuda"),
        default="auto",
        help=f"where to {what}; auto = cuda where there is a GPU",
    )


def _device(given: str) -> str:
    """Replace ``auto``; argparse calls this for a default only if it is needed."""
    return available_device() if given == "auto" else given


def available_device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if visible_gpus() else "cpu"


def add_split(
    parser: argparse.ArgumentParser, done: str, model: str, files: str, form: str = ""
) -> None:
    """Add ``--data``, ``--split``, ``--model`` and ``--to`` of a verb that measures.

    Args:
        parser: of the verb.
        done: what happens to the examples, for the help.
        model: what ``--model`` names, for the help.
        files: what is written, for the help.
        form: of ``--model``, other than ``NAME=FOLDER``.
    """
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FOLDER",
        help=f"data folder whose examples are {done}",
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar=form or "NAME=FOLDER",
        help=model,
    )
    parser.add_argument("--to", required=True, type=Path, metavar="FILE", help=files)
    parser.add_argument("--split", default="test", help="of the data folder")


def add_precision(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str = "compute"
) -> None:
    """Add ``--precision``, to be checked with ``check_device``."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help=f"numbers to {what} in; all but fp32 need a GPU, tf32 and bf16 one of "
        "compute capability 8.0 (Ampere)",
    )


def at_least(
    least: int, arguments: argparse.Namespace, *names: str, most: int = MOST
) -> None:
    """Refuse options whose numbers are out of range; one that was not given may stay.

    Args:
        least: the smallest number that is allowed.
        arguments: of the verb.
        names: of the options, as attributes of ``arguments``.
        most: the largest number that is allowed.

    Raises:
        InputError: names the option, its value and what is allowed.
    """
    for name in names:
        value = getattr(arguments, name)
        flag = name.replace("_", "-")
        if value is not None and value < least:
            raise InputError(f"--{flag} is {value}: it must be at least {least}")
        if value is not None and value > most:
            raise InputError(f"--{flag} is {value}: it must be at most {most}")


def files_to_write(to: Path, *suffixes: str) -> list[Path]:
    """Return the files of a ``--to`` that names the first of them.

    Args:
        to: the value of the option.
        suffixes: of the files, that of ``to`` first.

    Raises:
        InputError: ``to`` has another ending, or one of the files is there and no
            command wrote it.
    """
    if to.suffix != suffixes[0]:
        raise InputError(f"--to is {str(to)!r}: it must end in {suffixes[0]}")
    paths = [to.with_suffix(suffix) for suffix in suffixes]
    check_files(paths)
    return paths


def named_folders(flag: str, given: Sequence[str]) -> dict[str, Path]:
    """Return the folders of an option ``NAME=FOLDER`` by their names.

    Args:
        flag: the option, for messages.
        given: its values.

    Raises:
        InputError: one has another form, or a name is given twice.
    """
    found: dict[str, Path] = {}
    for value in given:
        name, sign, folder = value.partition("=")
        if not sign or not name or not folder:
            raise InputError(f"{flag} {value!r}: it must be NAME=FOLDER")
        if name in found:
            raise InputError(f"{flag} {value!r}: {name} is given twice")
        found[check_name(name, f"{flag} {value!r}: NAME")] = Path(folder)
    return found
