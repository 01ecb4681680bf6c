"""Write folders atomically, recognize and verify them.

A folder that a command writes as a whole has a ``manifest.json`` with its kind and the
SHA-256 of every other file. It is replaced only if it still matches this manifest.
Commands that add a few files to a user's folder list them in ``.fairseq-scl.json``.
"""

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from fairseq_scl.data.files import explained, sha256, try_lock, write_json
from fairseq_scl.data.renames import TEMPORARY, restore, take_place, temporary
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import MANIFEST
from fairseq_scl.typed import Checksum, read_as

LISTED = ".fairseq-scl.json"
LOCK = ".lock"
SCHEMA = 1
DATA, ENCODER, MODEL = "data folder", "encoder folder", "model folder"
TEXT, TRANSLATION = "text folder", "translation model folder"
HUGGING_FACE = "Hugging Face folder"


class _Listing(msgspec.Struct):
    """The part of ``manifest.json`` that all kinds of folders share."""

    sha256: dict[str, Checksum]
    kind: str | None = None


class _Files(msgspec.Struct):
    kind: Literal["files"]
    files: list[str]


@contextmanager
def folder_then_rename(
    path: str | Path, kind: str, inputs: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """Create a temporary folder next to ``path`` and rename it to ``path`` at the end.

    ``manifest.json`` is added, unless the block writes it with :func:`manifest`. An
    existing folder is replaced only after the new one is complete.

    Args:
        path: the folder to write; its parent is created if missing.
        kind: kind of the folder. An existing folder at ``path`` is replaced only if it
            is empty, or is of this kind and contains nothing else.
        inputs: files and folders that it is created from.

    Yields:
        the temporary folder.

    Raises:
        InputError: the folder cannot be written (disk full, no permission), ``path``
            has other content, or it overlaps with one of the inputs.
    """
    path = Path(path)
    with explained(path):
        _refuse_overlap(path, inputs)
        check_replaceable(path, kind)
        restore(path)
    with explained(path), temporary(path.parent, folder=True) as (new, _):
        with naming(path, new):
            yield new
            if not (new / MANIFEST).exists():
                write_json(new / MANIFEST, manifest(new, kind))
        check_replaceable(path, kind)  # the block may have taken hours
        take_place(new, path)


@contextmanager
def folders_then_rename(
    paths: Sequence[Path], kind: str, inputs: Iterable[str | Path] = ()
) -> Iterator[list[Path]]:
    """Create several folders of one parent, and rename them at the end.

    All are checked before the block. If it raises, for example because the new folders
    must not replace the existing ones, these are left unchanged. Arguments and errors
    are those of :func:`folder_then_rename`.

    Yields:
        for each folder, a path at which the block creates it.
    """
    inputs = list(inputs)
    parent = paths[0].parent
    for path in paths:
        with explained(path):
            _refuse_overlap(path, inputs)
            check_replaceable(path, kind)
    with explained(parent), temporary(parent, folder=True) as (staged, _):
        with naming(parent, staged):
            yield [staged / path.name for path in paths]
        for path in paths:
            with folder_then_rename(path, kind, inputs) as new:
                os.replace(staged / path.name, new)


@contextmanager
def hold(folder: Path, what: Path | None = None, lock: str = LOCK) -> Iterator[None]:
    """Hold the lock file of a folder that the block fills.

    Raises:
        InputError: the folder is part of one that is written as a whole, another
            process has the lock (the message names ``what``, by default the folder),
            or as ``try_lock``.
    """
    with explained(folder / lock):
        check_outside(folder)
    with try_lock(folder / lock) as mine:
        if not mine:
            raise InputError(
                f"another process is writing {what or folder}: wait for it to end, or "
                "choose another folder"
            )
        yield


@contextmanager
def naming(path: str | Path, hidden: Path) -> Iterator[None]:
    """Within the block, let errors name the user's path, not the temporary one.

    Raises:
        InputError: the error of the block with ``path`` in place of ``hidden``.
    """
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(hidden), str(path))) from error


def manifest(folder: Path, kind: str) -> dict[str, Any]:
    """Return the manifest of a folder that is complete except for the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    checksums = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    return {"schema": SCHEMA, "kind": kind, "sha256": checksums}


def verify(folder: str | Path) -> None:
    """Compare the files of a folder with its manifest, if it has one.

    Raises:
        InputError: names the first file that is missing or was changed.
    """
    path = Path(folder, MANIFEST)
    if not os.path.lexists(path):
        return
    for name, expected in sorted(read_as(path, _Listing).sha256.items()):
        file = Path(folder, name)
        if not file.is_file():
            raise InputError(
                f"missing file: {file}, which {path} lists: create {folder} again"
            )
        if sha256(file) != expected:
            raise InputError(
                f"{file} was changed after {path} was written (its SHA-256 differs): "
                f"create {folder} again"
            )


def kind_of_whole(folder: Path) -> str | None:
    """Return the kind of a folder that a command wrote as a whole, else ``None``."""
    try:
        return read_as(folder / MANIFEST, _Listing).kind or "folder"
    except InputError:
        return None


def check_outside(folder: Path) -> None:
    """Refuse to write into a folder that a command writes as a whole, at any depth.

    Raises:
        InputError: names that folder.
    """
    real = folder.resolve()
    for whole in (real, *real.parents):
        if kind := kind_of_whole(whole):
            raise InputError(
                f"nothing is added to the {kind} {whole}: choose another folder"
            )


def check_replaceable(path: Path, kind: str) -> None:
    """Refuse to replace anything but an unchanged folder of this kind.

    Raises:
        InputError: names the path and its content, or as :func:`check_outside`.
    """
    check_outside(path.parent)
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link: name the folder itself")
    if not path.exists():
        return
    here, real = Path.cwd(), path.resolve()
    if real in (here, *here.parents):
        raise InputError(
            f"{str(path)!r} is or contains the current folder: choose a new folder"
        )
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: choose another name")
    if reason := _foreign(path, kind):
        raise InputError(
            f"{path} is not replaced, because {reason}: delete it yourself or choose "
            "another name"
        )


def check_holds_only(folder: Path, patterns: Iterable[str]) -> None:
    """Refuse to clear a folder that contains more than unfinished work.

    The folder may be missing. The ``fnmatch`` patterns match all unfinished files.

    Raises:
        InputError: names the first file or folder that no pattern matches.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    with explained(folder):
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in found:
        known = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)
        if not TEMPORARY.fullmatch(entry.name) and not (
            known and entry.is_file(follow_symlinks=False)
        ):
            raise InputError(
                f"{folder} contains {entry.name}, which no command wrote: delete the "
                "folder yourself or choose another one"
            )


def check_files(paths: Iterable[Path]) -> None:
    """Refuse to replace files that no command wrote.

    Raises:
        InputError: names the first of these files, or as :func:`check_outside`.
    """
    for path in paths:
        check_outside(path.parent)
        if os.path.lexists(path) and path.name not in _listed(path.parent):
            raise InputError(
                f"{path} is not replaced, because {LISTED} does not list it as written "
                "by fairseq-scl: delete it yourself or choose another name"
            )


def list_files(paths: Iterable[Path]) -> None:
    """List files that a command is about to write in ``.fairseq-scl.json``.

    Raises:
        InputError: as :func:`check_files`, or the disk is full.
    """
    paths = list(paths)
    check_files(paths)
    for folder in {path.parent for path in paths}:
        there = _listed(folder)
        names = there | {path.name for path in paths if path.parent == folder}
        if names != there:
            content = {"schema": SCHEMA, "kind": "files", "files": sorted(names)}
            write_json(folder / LISTED, content)


def _listed(folder: Path) -> set[str]:
    try:
        return set(read_as(folder / LISTED, _Files).files)
    except InputError:
        return set()


def _refuse_overlap(path: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to overwrite inputs; a new folder in a user's text folder is fine."""
    target = path.resolve()
    for given in inputs:
        source = Path(given).resolve()
        inside = source in target.parents and (source / MANIFEST).is_file()
        if target == source or target in source.parents or inside:
            raise InputError(
                f"{str(path)!r} is, contains or lies in the input {given}: choose "
                "another output folder"
            )


def _foreign(path: Path, kind: str) -> str | None:
    """Return why a folder is not exactly what a command wrote, or ``None``."""
    if all(TEMPORARY.fullmatch(entry.name) for entry in os.scandir(path)):
        return None
    try:
        listing = read_as(path / MANIFEST, _Listing)
    except InputError:
        return f"it lacks a {MANIFEST} that lists its files"
    if listing.kind != kind:
        named = repr(listing.kind) if listing.kind else "missing (an earlier version)"
        return f"the kind in its {MANIFEST} is {named}, not {kind!r}"
    checksums = listing.sha256
    folders = {parent.as_posix() for name in checksums for parent in Path(name).parents}
    for at, inside, files in os.walk(path):
        inside[:] = [name for name in inside if not TEMPORARY.fullmatch(name)]
        for entry in sorted(Path(at, name) for name in (*inside, *files)):
            name = entry.relative_to(path).as_posix()
            if entry.is_dir() and not entry.is_symlink() and name in folders:
                continue
            if name == MANIFEST or TEMPORARY.fullmatch(entry.name):
                continue
            if name not in checksums or not entry.is_file() or entry.is_symlink():
                return f"it contains {name}, which no command wrote"
            if sha256(entry) != checksums[name]:
                return f"its file {name} was changed after it was written"
    return None
