"""Download the official files of the tasks: verified, resumable, never incomplete."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pooch
import requests
from tqdm import tqdm

from fairseq_scl.data.files import sha256, write_then_rename
from fairseq_scl.data.folders import check_outside
from fairseq_scl.data.tasks import Download, Task
from fairseq_scl.errors import InputError

RETRIES = 3
TIMEOUT_SECONDS = 30
BYTES_AT_ONCE = 1 << 16
_PAST_THE_END = 416  # status of a request for a range beyond the end of the file
ARCHIVES = "archives"


def download_task(task: Task, folder: str | Path, progress: bool = False) -> Path:
    """Download the official files of a task and unpack those that the paper uses.

    Archives are kept in ``archives/``, so that a second call downloads nothing.

    Returns:
        the folder of the task in ``folder``, named as in the official archive.

    Raises:
        InputError: the download failed, the result is not the official file, or the
            disk is full; existing files are left unchanged. Or as ``check_outside``.
    """
    check_outside(Path(folder))
    target = Path(folder, task.folder)
    for wanted in task.downloads:
        is_archive = wanted.name.endswith((".zip", ".tgz"))
        place = Path(folder, ARCHIVES) if is_archive else target
        file = fetch_file(wanted, place, progress)
        if is_archive:
            for name in task.files.values():
                if not (target / name).is_file():
                    _unpack(file, f"{task.folder}/{name}", target / name)
    return target


def fetch_file(wanted: Download, folder: str | Path, progress: bool = False) -> Path:
    """Download one file, or do nothing if it exists and its checksum matches.

    An interrupted download is resumed, by this call or by a later one, from the
    ``.part`` file that it leaves. If size and checksum are unknown, the server gives
    the size, and any existing file is accepted.

    Returns:
        the path of the file.

    Raises:
        InputError: as :func:`download_task`, or another file has its name.
    """
    path = Path(folder, wanted.name)
    if wanted.sha256 and path.exists():
        if sha256(path) == wanted.sha256:
            return path
        raise InputError(
            f"{path} exists and is not the file with sha256 {wanted.sha256} from "
            f"{wanted.url}: move it away, or delete it to download that file"
        )
    fetcher = pooch.create(
        path=path.parent,
        base_url="",
        registry={wanted.name: wanted.sha256 and f"sha256:{wanted.sha256}"},
        urls={wanted.name: wanted.url},
        retry_if_failed=RETRIES,
    )
    pooch.get_logger().setLevel("WARNING")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fetcher.fetch(wanted.name, downloader=_Resuming(wanted, path, progress))
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"cannot download {wanted.url}: {_short(error)}; rerun the same command to "
            "resume the download"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{wanted.url} is not the expected file with sha256 {wanted.sha256}: it is "
            "not used"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


class _BrokenOff(requests.exceptions.ConnectionError):
    """Fewer bytes arrived than the file has."""


class _Resuming:
    """A downloader for pooch that writes to ``.part`` and resumes from it."""

    def __init__(self, wanted: Download, path: Path, progress: bool) -> None:
        self._wanted, self._progress = wanted, progress
        self._part = path.with_name(f"{path.name}.part")

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        part, size = self._part, self._wanted.bytes
        have = part.stat().st_size if part.exists() else 0
        if size is not None and have >= size:
            part.unlink()
            have = 0
        # No compression, so that lengths are in bytes of the file.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(
            url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS
        ) as answer:
            if size is None and answer.status_code == _PAST_THE_END:
                part.unlink()
                raise _BrokenOff("the part was complete, or of another file")
            answer.raise_for_status()
            # A server without support for ranges sends the whole file.
            start = answer.headers.get("Content-Range", "")
            resumes = answer.status_code == 206 and start.startswith(f"bytes {have}-")
            have = have if resumes else 0
            if size is None and "Content-Length" in answer.headers:
                size = have + int(answer.headers["Content-Length"])
            with (
                part.open("ab" if resumes else "wb") as file,
                tqdm(
                    total=size,
                    initial=have,
                    desc=self._wanted.name,
                    unit="B",
                    unit_scale=True,
                    disable=not self._progress,
                ) as bar,
            ):
                for block in answer.iter_content(BYTES_AT_ONCE):
                    file.write(block)
                    bar.update(len(block))
                    have += len(block)
                    if size is not None and have > size:
                        break
        if size is not None and have < size:
            raise _BrokenOff(f"{have} of {size} bytes")
        shutil.move(part, output_file)  # pooch verifies and renames it


def _unpack(archive: Path, member: str, target: Path) -> None:
    try:
        with _opened(archive, member) as source, write_then_rename(target, "wb") as to:
            shutil.copyfileobj(source, to)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error):
        raise InputError(f"{archive} does not contain {member}") from None


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened, opened.open(member) as file:
            yield file
        return
    with tarfile.open(archive) as tar:
        source = tar.extractfile(member)
        if source is None:
            raise KeyError(member)
        with source:
            yield source


def _short(error: Exception) -> str:
    """Describe an error in a few words, without the nested objects of requests."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"the server returned status {answer.status_code}"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no response within {TIMEOUT_SECONDS} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | _BrokenOff):
        return "the connection was interrupted"
    return "no connection"
