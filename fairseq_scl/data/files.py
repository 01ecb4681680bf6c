"""Atomic writes, locks and checksums of files."""

import errno
import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from fairseq_scl.data.renames import temporary
from fairseq_scl.errors import InputError
from fairseq_scl.typed import read_json as read_json

LONGEST_NAME = 200
CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # of disks


@contextmanager
def write_then_rename(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file next to ``path`` and rename it to ``path`` at the end.

    Args:
        path: the file to write; its folder is created if missing.
        mode: ``"w"`` (UTF-8 text, newlines not translated) or ``"wb"``.

    Yields:
        the open temporary file. If the block raises, ``path`` is left unchanged.

    Raises:
        InputError: the file cannot be written (disk full, no permission).
    """
    path = Path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with explained(path), temporary(path.parent) as (new, descriptor):
        with open(
            descriptor, mode, encoding=encoding, newline=newline, closefd=False
        ) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Within the block, raise an ``InputError`` when ``path`` cannot be written.

    Raises:
        InputError: names the path and the reason, such as a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # With a full disk torch.save raises a RuntimeError about an internal check.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
            raise InputError(f"cannot write {path}: {cause.strerror}") from error
        raise


@contextmanager
def try_lock(path: Path, seconds: float = 0) -> Iterator[bool]:
    """Hold a lock file within the block; yield ``False`` if another process has it.

    The kernel releases the lock when the process dies. The file is not deleted.

    Args:
        path: the lock file.
        seconds: how long to wait for another process; -1 for as long as it takes.

    Raises:
        InputError: the lock file cannot be opened, or the disk does not support locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lock that only exists as a file would outlive a process that is killed.
        lock = FileLock(path, fallback_to_soft=False)
        lock.acquire(timeout=seconds)
    except Timeout:
        yield False
        return
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"cannot lock {path}: {path.parent} is not a folder; choose another name"
        ) from error
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            raise InputError(
                f"{path.parent} is on a disk without file locks: choose another folder"
            ) from error
        raise InputError(
            f"cannot lock {path}: {error.strerror or error}; make it writable or "
            "choose another folder"
        ) from error
    try:
        yield True
    finally:
        lock.release()


def check_name(name: object, what: str) -> str:
    """Return a name after checking that it can be part of a path.

    Raises:
        InputError: it is not a string of 1 to 200 bytes, has a ``/`` or NUL, or begins
            with a dot; the message begins with ``what``.
    """
    if (
        not isinstance(name, str)
        or not 1 <= len(os.fsencode(name)) <= LONGEST_NAME
        or name.startswith(".")
        or "/" in name
        or "\0" in name
    ):
        shown = repr(name) if len(repr(name)) < LONGEST_NAME else f"{name!r:.40}…"
        raise InputError(
            f"{what} is {shown}: a name must have 1 to {LONGEST_NAME} bytes, no '/' "
            "and no NUL, and must not begin with a dot"
        )
    return name


def write_json(path: str | Path, value: Any) -> None:
    """Atomically write ``value`` as indented JSON with sorted keys."""
    with write_then_rename(path) as file:
        json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.write("\n")


def files_in(folder: Path, pattern: str, at_any_depth: bool = False) -> list[Path]:
    """Return the files whose names match an ``fnmatch`` pattern, sorted.

    ``Path.glob`` would take a folder that cannot be read for an empty one.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for at, inside, names in os.walk(folder, onerror=refuse):
        found += [Path(at, name) for name in fnmatch.filter(names, pattern)]
        if not at_any_depth:
            inside.clear()
    return sorted(found)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
