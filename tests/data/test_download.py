"""Downloads against a local server that breaks off, fails and lies."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fairseq_scl.data import download
from fairseq_scl.data.download import ARCHIVES, RETRIES, download_task, fetch_file
from fairseq_scl.data.official_files import task_table
from fairseq_scl.data.tasks import TASKS, TRAIN
from fairseq_scl.errors import InputError
from helpers.published import pack
from helpers.refusals import refused
from helpers.server import GOOD, start_of


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(server, tmp_path):
    wanted = server.wanted("a.zip")
    for _ in range(2):
        assert fetch_file(wanted, tmp_path / "new").read_bytes() == GOOD
    assert server.ranges == [None]
    assert names(tmp_path / "new") == ["a.zip"]


def test_a_truncated_body_is_resumed(server, tmp_path):
    wanted = server.wanted("a.zip")
    server.faults = ["truncated", "truncated"]
    assert fetch_file(wanted, tmp_path).read_bytes() == GOOD
    starts = [0 if r is None else start_of(r) for r in server.ranges]
    assert 0 == starts[0] < starts[1] < starts[2] < len(GOOD)
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("faults", "knows_ranges"), [(["truncated"], False), ([500] * RETRIES, True)]
)
def test_errors_of_the_server_are_tried_again(server, tmp_path, faults, knows_ranges):
    """Without ranges, the server sends the whole file again."""
    wanted = server.wanted("a.zip")
    server.faults, server.knows_ranges = faults, knows_ranges
    assert fetch_file(wanted, tmp_path).read_bytes() == GOOD


def test_the_next_call_resumes_a_broken_download(server, tmp_path):
    wanted = server.wanted("a.zip")
    server.faults = ["truncated"] + [503] * RETRIES
    with refused(
        f"cannot download {wanted.url}: the server returned status 503", "resume"
    ):
        fetch_file(wanted, tmp_path)
    assert names(tmp_path) == ["a.zip.part"]
    server.ranges.clear()
    assert fetch_file(wanted, tmp_path).read_bytes() == GOOD
    assert 0 < start_of(server.ranges[0]) <= len(GOOD) // 2


@pytest.mark.parametrize(
    ("fault", "words", "left"),
    [
        ("truncated", "the connection was interrupted", ["a.zip.part"]),
        (500, "the server returned status 500", []),
    ],
)
def test_an_error_that_stays_is_one_sentence(server, tmp_path, fault, words, left):
    wanted = server.wanted("a.zip")
    server.faults = [fault] * (RETRIES + 1)
    with refused(f"a.zip: {words}; rerun"):
        fetch_file(wanted, tmp_path)
    assert names(tmp_path) == left


@pytest.mark.parametrize("served", [GOOD[::-1], GOOD + b"more"])
def test_wrong_bytes_are_refused(server, tmp_path, served):
    wanted = server.wanted("a.zip", served=served)
    with refused(wanted.url, wanted.sha256):
        fetch_file(wanted, tmp_path)
    assert names(tmp_path) == []


def test_another_file_of_the_same_name_is_not_replaced(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"years of work")
    with refused(f"{tmp_path / 'a.zip'} exists", "delete it"):
        fetch_file(server.wanted("a.zip"), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == b"years of work"
    assert server.ranges == []


def test_nobody_there_is_one_sentence(server, tmp_path):
    wanted = replace(server.wanted("a.zip"), url="http://127.0.0.1:9/a.zip")
    with pytest.raises(InputError, match=r"a\.zip: no connection; rerun the same"):
        fetch_file(wanted, tmp_path)


def test_a_folder_that_is_a_file_is_one_sentence(server, tmp_path):
    (tmp_path / "taken").write_text("a file", "utf-8")
    with pytest.raises(InputError, match=r"^cannot write .*a\.zip: "):
        fetch_file(server.wanted("a.zip"), tmp_path / "taken")


def test_a_part_that_cannot_be_written_starts_no_progress_bar(server, tmp_path, capsys):
    """The bar would be on the same line as the error."""
    (tmp_path / "a.zip.part").mkdir()
    wanted = replace(server.wanted("a.zip"), bytes=None, sha256=None)
    with refused(f"cannot write {tmp_path / 'a.zip'}"):
        fetch_file(wanted, tmp_path, progress=True)
    assert capsys.readouterr().err == ""


def test_a_killed_download_resumes(server, tmp_path):
    wanted = server.wanted("a.zip")
    server.faults = ["slow"]
    script = (
        "from fairseq_scl.data.download import fetch_file\n"
        "from fairseq_scl.data.tasks import Download\n"
        f"fetch_file({wanted!r}, {str(tmp_path)!r})\n"
    )
    root = Path(download.__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stderr=subprocess.DEVNULL
    )
    part = tmp_path / "a.zip.part"
    for _ in range(600):
        if part.exists() and part.stat().st_size > 1 << 16:
            break
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    assert 0 < have < len(GOOD)
    assert not (tmp_path / "a.zip").exists()
    assert fetch_file(wanted, tmp_path).read_bytes() == GOOD
    assert server.ranges == [None, f"bytes={have}-"]


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def local_task(server, name, *contents):
    """Return a task whose downloads are served here with other content."""
    task = TASKS[name]
    served = zip(task.downloads, contents, strict=True)
    return replace(
        task, downloads=tuple(server.wanted(d.name, content) for d, content in served)
    )


def test_a_zipped_task_is_unpacked_and_read(server, tmp_path):
    files = {
        "SST-2/train.tsv": b"sentence\tlabel\ngood\t1\n",
        "SST-2/dev.tsv": b"sentence\tlabel\nbad\t0\n",
        "SST-2/original/big.txt": b"not needed",
        "../../evil.txt": b"never",
    }
    task = local_task(server, "SST-2", zipped(files))
    for _ in range(2):
        assert download_task(task, tmp_path / "glue") == tmp_path / "glue" / "SST-2"
    assert len(server.ranges) == 1
    assert names(tmp_path / "glue") == ["SST-2", ARCHIVES]
    assert names(tmp_path / "glue" / "SST-2") == ["dev.tsv", "train.tsv"]
    assert [line for line, _ in task_table(task, tmp_path / "glue", TRAIN)] == [2]


def test_a_tarred_task_is_unpacked_and_read(server, tmp_path):
    folder = "yelp_review_polarity_csv"
    rows = {"train.csv": b'"1","bad"\n', "test.csv": b'"2","good"\n'}
    files = {f"{folder}/{name}": content for name, content in rows.items()}
    task = local_task(server, "Yelp-2", pack(files))
    download_task(task, tmp_path)
    assert [e.label for _, e in task_table(task, tmp_path, TRAIN)] == ["negative"]


def test_mrpc_comes_as_files(server, tmp_path):
    both = (
        b"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n0\t1\t2\tc\td\n"
    )
    task = local_task(server, "MRPC", both, both, b"1\t2\n")
    download_task(task, tmp_path)
    assert [line for line, _ in task_table(task, tmp_path, TRAIN)] == [2]


@pytest.mark.parametrize(("name", "archive"), [("SST-2", zipped), ("Yelp-2", pack)])
def test_an_archive_without_the_file_is_refused(server, tmp_path, name, archive):
    task = local_task(server, name, archive({"readme": b"empty"}))
    with pytest.raises(InputError, match=r"does not contain .*/train\.(tsv|csv)$"):
        download_task(task, tmp_path)
    assert not any(tmp_path.rglob("train.*"))
