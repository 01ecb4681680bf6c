"""Take the files of one folder out of archives that others packed."""

import fnmatch
import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from fairseq_scl.errors import InputError

# Limits against decompression bombs: weights hardly compress, text to a third.
MOST_PACKED, SLACK = 20, 1 << 26

# Each file that a folder needs, as ``fnmatch`` patterns of which one must match.
Needed = Sequence[Sequence[str]]


def missing_files(folder: Path, needed: Needed) -> list[str]:
    """Name the needed files that a folder lacks."""
    return [
        " or ".join(names)
        for names in needed
        if not any(path.is_file() for name in names for path in folder.glob(name))
    ]


def take_folder(archive: Path, needed: Needed, to: Path) -> None:
    """Copy the needed files from the only folder of an archive that has them all.

    Only regular files are copied. Paths and links in the archive are ignored: only the
    last part of a name is used.

    Args:
        archive: a gzipped tar file.
        needed: the files of the folder.
        to: an existing folder to write them to.

    Raises:
        InputError: the archive is damaged, expands to far more than its size, or does
            not have exactly one such folder.
    """
    parts = _take_files(archive, [name for names in needed for name in names], to)
    whole = [part for part in parts if not missing_files(part, needed)]
    if len(whole) != 1:
        raise InputError(
            f"{archive} has {len(whole)} folders with "
            f"{', '.join(' or '.join(names) for names in needed)}: it must have one"
        )
    for path in sorted(whole[0].iterdir()):
        path.rename(to / path.name)
    for part in parts:
        shutil.rmtree(part)


def _take_files(archive: Path, names: Iterable[str], to: Path) -> list[Path]:
    """Copy files whose names match; each folder of the archive becomes one here."""
    parts: dict[PurePosixPath, Path] = {}
    size = 0
    try:
        with gzip.open(archive) as packed, tarfile.open(None, "r:", packed) as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                path = PurePosixPath(member.name)
                if not any(fnmatch.fnmatchcase(path.name, name) for name in names):
                    continue
                size += member.size
                if size > SLACK + MOST_PACKED * archive.stat().st_size:
                    raise InputError(
                        f"{archive} was not unpacked: up to {member.name} it expands "
                        f"to {size:,} bytes, too many for the size of the archive"
                    )
                part = parts.setdefault(path.parent, to / f"part{len(parts)}")
                part.mkdir(exist_ok=True)
                with (part / path.name).open("wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file)  # type: ignore[arg-type]
            while packed.read(1 << 20):  # to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{archive} is damaged or not a gzipped tar file: delete it and "
            "download it again"
        ) from error
    return list(parts.values())
