"""Take single files out of archives that others packed."""

import fnmatch
import gzip
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fairseq_scl.errors import InputError

# Limits against decompression bombs: weights hardly compress, text to a third.
MOST_PACKED, SLACK = 20, 1 << 26


def take_files(archive: Path, names: Sequence[str], to: Path) -> list[Path]:
    """Copy regular files whose names match ``names``, keeping folders separate.

    Paths and links in the archive are ignored: only the last part of a name is used.

    Args:
        archive: a gzipped tar file.
        names: ``fnmatch`` patterns for names of files, without folders.
        to: where to write; each folder of the archive becomes one here.

    Returns:
        the folders with the files, in the order of the archive.

    Raises:
        InputError: the archive is damaged, or expands to far more than its size.
    """
    parts: dict[PurePosixPath, Path] = {}
    size = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
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
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{archive} is damaged or not a gzipped tar file: delete it and "
            "download it again"
        ) from error
    return list(parts.values())
