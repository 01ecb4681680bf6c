"""Options shared by several verbs."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.data.files import check_name
from fairseq_scl.data.folders import ENCODER, check_files, kind_of_whole
from fairseq_scl.data.packages import default_cache
from fairseq_scl.data.readers import repeated
from fairseq_scl.device import PRECISIONS, available_device
from fairseq_scl.errors import InputError


class _Checked(argparse.Action):
    """Store a value, or several different ones, after checking it.

    A number must be within its ``limits``. Options whose ``metavar`` is ``FOLDER`` name
    folders, which may be missing, but no file.
    """

    def __init__(
        self, *words: Any, limits: tuple[int, int] | None = None, **settings: Any
    ) -> None:
        super().__init__(*words, **settings)
        self.limits = limits

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flag, several = self.option_strings[0], isinstance(values, list)
        if self.metavar == FOLDER["metavar"]:
            for folder in values if several else [values]:
                check_no_file(flag, folder)
        if several:
            check_distinct(flag, values)
        if self.limits is not None:
            least, most = self.limits
            if values < least:
                raise InputError(f"{flag} is {values}: it must be at least {least}")
            if values > most:
                raise InputError(f"{flag} is {values}: it must be at most {most}")
        setattr(namespace, self.dest, values)


# Settings of ``add_argument`` for options that name a folder or file, or have several
# values.
FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER", "action": _Checked}
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
SEVERAL: dict[str, Any] = {"nargs": "+", "action": _Checked}
SEVERAL_FOLDERS: dict[str, Any] = {**SEVERAL, **FOLDER}
MODEL_FOLDER = "model folder, as 'fairseq-scl train' or 'export' writes it"
# Limits of numeric options: rows or tokens, and repetitions.
MOST, MOST_TIMES = 10**9, 1000


def number(least: int, most: int = MOST) -> dict[str, Any]:
    """Return settings of ``add_argument`` for a whole number within limits."""
    limits = (least, most)
    return {"type": int, "metavar": "N", "action": _Checked, "limits": limits}


def add_device(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str = "compute"
) -> None:
    """Add ``--device``, by default a GPU if there is one; ``what`` is for the help."""
    parser.add_argument(
        "--device",
        type=_device,
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help=f"device to {what} on; auto = cuda if there is a GPU, otherwise cpu",
    )


def _device(given: str) -> str:
    """Resolve ``auto``; argparse calls this for a default only if it is used."""
    return available_device() if given == "auto" else given


def add_encoder(
    parser: argparse.ArgumentParser,
    what: str,
    required: bool = False,
    default: str = "",
) -> None:
    """Add ``--encoder`` and ``--cache``; get its folder with :func:`encoder_folder`.

    ``what`` says for the help what the encoder is for.
    """
    parser.add_argument(
        "--encoder",
        required=required,
        default=default or None,
        metavar="ENCODER",
        help=f"{what}: a folder, or a name such as minilm, roberta.large or that of a "
        "model of the Hugging Face hub (OWNER/NAME), see docs/encoders.md",
    )
    add_cache(parser)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache``, where encoders given by name are kept."""
    parser.add_argument(
        "--cache",
        **FOLDER,
        default=default_cache(),
        help="folder for encoders given by name, which are downloaded once",
    )


def encoder_folder(
    given: str, cache: Path, flag: str = "--encoder", or_model: bool = False
) -> Path:
    """Return the folder of an encoder given as a folder or by name.

    Args:
        given: the value of the option ``flag``.
        cache: folder for encoders given by name.
        flag: for messages.
        or_model: whether it may be a model folder.

    Raises:
        InputError: the name is unknown, its encoder cannot be fetched, or the folder is
            missing or of another kind.
    """
    # These import torch.
    from fairseq_scl.convert.named_encoders import find_encoder
    from fairseq_scl.inference.encoder_folder import is_encoder_folder
    from fairseq_scl.inference.model_folder import SETTINGS

    say = functools.partial(print, file=sys.stderr, flush=True)
    folder = find_encoder(given, cache, say, sys.stderr.isatty(), flag)
    wanted = "an encoder folder (model.pt, dict.txt)"
    if or_model:
        wanted += f" or a model folder ({SETTINGS})"
        if (folder / SETTINGS).is_file():
            return folder
    if not folder.exists():
        raise InputError(f"{flag} is {given!r}: there is no such folder or name")
    if not is_encoder_folder(folder):
        kind = kind_of_whole(folder) if folder.is_dir() else "file"
        other = f", but a {kind}" if kind not in (None, ENCODER) else ""
        raise InputError(
            f"{flag} {given} is not {wanted}{other}: create one with 'fairseq-scl "
            "convert', or give a name"
        )
    return folder


def add_split(
    parser: argparse.ArgumentParser, done: str, model: str, files: str, form: str = ""
) -> None:
    """Add ``--data``, ``--split``, ``--model`` and ``--to``.

    ``done`` says for the help of ``--data`` what is done with the examples; ``model``
    and ``files`` are the help of ``--model`` and ``--to``; ``form`` is the format of
    ``--model`` if it is not ``NAME=FOLDER``.
    """
    parser.add_argument(
        "--data",
        required=True,
        **FOLDER,
        help=f"data folder with the examples to be {done}",
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar=form or "NAME=FOLDER",
        help=model,
    )
    parser.add_argument("--to", required=True, **FILE, help=files)
    parser.add_argument("--split", default="test", help="split of the data folder")


def add_precision(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str = "compute"
) -> None:
    """Add ``--precision``; check its value with ``check_device``."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help=f"precision to {what} in; all except fp32 need a GPU, tf32 and bf16 one "
        "of compute capability 8.0 (Ampere) or higher",
    )


def add_drop_empty(parser: argparse.ArgumentParser, where: str = "") -> None:
    """Add ``--drop-empty`` of commands that read a table; ``where`` is for the help."""
    parser.add_argument(
        "--drop-empty",
        action="store_true",
        help=f"{where}skip rows with an empty text or label",
    )


def add_own_table(
    parser: argparse.ArgumentParser, source: argparse._MutuallyExclusiveGroup
) -> None:
    """Add ``--table``, one of several sources, and its ``--columns``."""
    source.add_argument(
        "--table",
        **FILE,
        help="your own .tsv, .csv or .jsonl with named columns; needs --columns",
    )
    parser.add_argument(
        "--columns",
        **SEVERAL,
        metavar="NAME",
        help="with --table: one or two text columns, followed by the label column",
    )


def add_max_tokens(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-tokens`` of commands that predict."""
    parser.add_argument(
        "--max-tokens",
        **number(1),
        default=4096,
        help="tokens per batch, including padding",
    )


def check_distinct(flag: str, values: Sequence[object]) -> None:
    """Check that no value of an option is repeated.

    Raises:
        InputError: names the option and the value.
    """
    if twice := repeated([str(value) for value in values]):
        raise InputError(f"{flag} has {twice!r} twice: give it once")


def check_no_file(flag: str, folder: Path) -> None:
    """Check that the folder of an option is not a file; it may be missing.

    Raises:
        InputError: names the option and the file.
    """
    if folder.is_file():
        raise InputError(f"{flag} {folder} is a file: it must be a folder")


def check_learning_rate(arguments: argparse.Namespace) -> None:
    """Check ``--learning-rate``; ``None`` is accepted.

    Raises:
        InputError: it is not above 0 and finite.
    """
    rate = arguments.learning_rate
    if rate is not None and not 0 < rate < float("inf"):
        raise InputError(f"--learning-rate is {rate}: it must be above 0")


def files_to_write(to: Path, *suffixes: str) -> list[Path]:
    """Return the output files of a verb whose ``--to`` has the first of the suffixes.

    Raises:
        InputError: ``to`` has another suffix, or a file exists that was not written by
            a command of this package.
    """
    if to.suffix != suffixes[0]:
        raise InputError(f"--to is {str(to)!r}: it must end in {suffixes[0]}")
    paths = [to.with_suffix(suffix) for suffix in suffixes]
    check_files(paths)
    return paths


def named_folders(
    flag: str, given: Sequence[str], form: str = "NAME=FOLDER"
) -> dict[str, Path]:
    """Return the folders of a repeatable option ``NAME=FOLDER`` by name.

    Raises:
        InputError: a value is not in this ``form``, a name is given twice or cannot be
            part of a path, or a folder is a file.
    """
    found = key_values(flag, given, form)
    for name, folder in found.items():
        if not folder:
            raise InputError(f"{flag} '{name}=': it must be {form}")
        check_name(name, f"{flag} '{name}={folder}': NAME")
        check_no_file(f"{flag} {name}:", Path(folder))
    return {name: Path(folder) for name, folder in found.items()}


def key_values(
    flag: str, given: Sequence[str], form: str = "KEY=VALUE"
) -> dict[str, str]:
    """Return the values of a repeatable option ``KEY=VALUE`` by key.

    Raises:
        InputError: a value is not in this ``form``, or a key is given twice.
    """
    found: dict[str, str] = {}
    for word in given:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise InputError(f"{flag} {word!r}: it must be {form}")
        if key in found:
            raise InputError(f"{flag} {word!r}: {key} is given twice")
        found[key] = value
    return found
