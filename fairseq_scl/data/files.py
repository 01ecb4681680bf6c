"""Writing files so that one that exists is complete, and proving what is in them."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fairseq_scl.errors import InputError

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
}

# The largest that there are, tokenizer.json of many languages, have 20 MB.
LARGEST_JSON = 1 << 28


@contextmanager
def write_then_rename(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` at the end.

    Args:
        path: the file to write; its folder is made if it is missing.
        mode: ``"w"`` (UTF-8 text, newlines as they are) or ``"wb"``.

    Yields:
        the open temporary file. If the block raises, ``path`` stays as it was.

    Raises:
        InputError: the file cannot be written (disk full, no permission).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
        with open(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        _explain(error, path)
        raise
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


@contextmanager
def folder_then_rename(path: str | Path, replaces: str | None = None) -> Iterator[Path]:
    """Make a temporary folder beside ``path`` and rename it to ``path`` at the end.

    A folder that was at ``path`` is replaced only after the new one is complete.

    Args:
        path: the folder to write; its parent is made if it is missing.
        replaces: name of a file by which a folder of the same kind is known. What is at
            ``path`` without that file, other than an empty folder, is not replaced.

    Yields:
        the temporary folder.

    Raises:
        InputError: the folder cannot be written (disk full, no permission), or ``path``
            holds something else.
    """
    path = Path(path)
    temporary = None
    try:
        if replaces is not None and _is_other(path, replaces):
            raise InputError(
                f"{path} exists and has no {replaces}: it is not replaced, choose "
                "another name or delete it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        if path.exists():
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)
    except InputError as error:  # a file inside: name the place that the user gave
        raise InputError(str(error).replace(str(temporary), str(path))) from error
    except (OSError, RuntimeError) as error:
        _explain(error, path)
        raise
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, by ``write_then_rename``."""
    with write_then_rename(path) as file:
        json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, is not JSON, or is larger or nested deeper than
            any that this package reads; the message names it.
    """
    try:
        if (size := os.path.getsize(path)) > LARGEST_JSON:
            raise InputError(
                f"{path} has {size:,} bytes, at most {LARGEST_JSON:,} are read"
            )
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"cannot read {path} as JSON: too deeply nested") from None
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"missing file: {path}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from error


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _exchange(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``; if that fails, ``path`` is as it was."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    old = aside / path.name
    try:
        os.replace(path, old)
        os.replace(new, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _is_other(path: Path, marker: str) -> bool:
    if path.is_dir():
        return any(path.iterdir()) and not (path / marker).is_file()
    return path.exists()


def _explain(error: Exception, path: Path) -> None:
    """Raise an InputError if what went wrong is that the file cannot be written."""
    # torch.save answers a full disk with a RuntimeError about its own bookkeeping.
    cause = error.__context__ if isinstance(error, RuntimeError) else error
    if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
        raise InputError(f"cannot write {path}: {cause.strerror}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
