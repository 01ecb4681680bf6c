"""Temporary files and folders that are renamed atomically once they are complete.

The writing process locks its temporary path. The kernel releases the lock whenever the
process ends, so a temporary path that can be locked is a leftover.
"""

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".fairseq-scl-tmp-"
OLD = ".fairseq-scl-old-"
TEMPORARY = re.compile(re.escape(PREFIX) + r"\w{8}")  # tempfile adds 8 characters
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def temporary(parent: Path, folder: bool = False) -> Iterator[tuple[Path, int]]:
    """Create a temporary file or folder in ``parent``, and delete it after the block.

    ``parent`` is created if missing; leftovers of killed processes there are deleted.

    Yields:
        its path, and an open file descriptor.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    path, descriptor = _make_locked(parent, folder)
    try:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(path, (0o777 if folder else 0o666) & ~mask)
        yield path, descriptor
    finally:
        _remove(path)
        os.close(descriptor)


def remove_leftovers(parent: Path) -> None:
    """Remove temporary files and folders whose processes have died."""
    for entry in os.scandir(parent) if parent.is_dir() else ():
        if not TEMPORARY.fullmatch(entry.name):
            continue
        with suppress(OSError):  # no permission, or deleted in the meantime
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(entry.path, flags)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(Path(entry.path))
            finally:
                os.close(descriptor)


def take_place(new: Path, path: Path) -> None:
    """Rename a temporary folder to ``path``; an existing folder is moved to ``new``."""
    try:
        os.replace(new, path)  # works if path is missing or empty
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _exchange(new, path)


def discard(folder: Path) -> None:
    """Delete a folder without ever leaving it incomplete at its path."""
    with temporary(folder.parent, folder=True) as (new, _):
        os.replace(folder, new)


def restore(path: Path) -> None:
    """Complete a swap of folders that was interrupted between its two renames."""
    old = path.with_name(OLD + path.name)
    if not old.is_dir():
        return
    if path.exists():
        shutil.rmtree(old)
    else:
        os.replace(old, path)


def _make_locked(parent: Path, folder: bool) -> tuple[Path, int]:
    while True:
        if folder:
            path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
        else:
            descriptor, path = tempfile.mkstemp(prefix=PREFIX, dir=parent)
        # Without support for locks, nothing is ever deleted as a leftover.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Before it was locked, another process may have deleted it as a leftover.
        if os.path.exists(path):
            return Path(path), descriptor
        os.close(descriptor)


def _exchange(new: Path, path: Path) -> None:
    """Swap two folders atomically, or with two renames if that is not supported."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        names = [os.fsencode(one.absolute()) for one in (new, path)]
        if not renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(path))
    old = path.with_name(OLD + path.name)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
