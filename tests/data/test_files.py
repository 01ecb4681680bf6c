"""A file that exists is complete: what was there stays until the new one is whole."""

import errno
import fcntl
import hashlib
import os
import stat

import pytest
import torch

from fairseq_scl.data.files import (
    check_name,
    read_json,
    sha256,
    try_lock,
    write_json,
    write_then_rename,
)
from fairseq_scl.data.folders import hold
from fairseq_scl.data.renames import temporary
from fairseq_scl.errors import InputError
from helpers.outputs import full_disk
from helpers.refusals import refused


def write(path, text):
    """Write a text by way of a temporary file."""
    with write_then_rename(path) as file:
        file.write(text)


def write_and_stop(path, error):
    """Raise an error in the middle of a file."""
    with write_then_rename(path) as file:
        file.write("half of the n")
        raise error("stop")


# Files


@pytest.mark.parametrize(
    ("mode", "content", "stored"),
    [
        ("w", "Grüße\r\nzwei\n", "Grüße\r\nzwei\n".encode()),
        ("wb", b"\xff\x00", b"\xff\x00"),
    ],
)
def test_a_file_is_written_whole_under_any_name(hostile, mode, content, stored):
    with write_then_rename(hostile, mode) as file:
        file.write(content)
    assert hostile.read_bytes() == stored
    assert os.listdir(hostile.parent) == [hostile.name]


def test_the_old_file_is_kept_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with write_then_rename(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_an_error_in_the_block_changes_nothing(hostile, error):
    with pytest.raises(error, match="stop"):
        write_and_stop(hostile, error)
    assert not os.listdir(hostile.parent)
    write(hostile, "old")
    with pytest.raises(error, match="stop"):
        write_and_stop(hostile, error)
    assert hostile.read_text() == "old"
    assert os.listdir(hostile.parent) == [hostile.name]


@pytest.mark.parametrize(
    ("mode", "fill"),
    [
        ("w", lambda file: file.write("x" * 10_000)),
        ("wb", lambda file: file.write(b"x" * 10_000)),
        # It turns the error of the disk into one about its own bookkeeping.
        ("wb", lambda file: torch.save({"model": torch.zeros(10_000)}, file)),
    ],
    ids=["text", "bytes", "torch.save"],
)
def test_a_full_disk_is_named_and_keeps_the_old_file(hostile, mode, fill):
    write(hostile, "old")
    with (
        full_disk(),
        pytest.raises(InputError) as caught,
        write_then_rename(hostile, mode) as file,
    ):
        fill(file)
    assert str(caught.value) == f"cannot write {hostile}: File too large"
    assert hostile.read_text() == "old"
    assert os.listdir(hostile.parent) == [hostile.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_late_keeps_the_old_file(tmp_path, monkeypatch, step, code):
    path = tmp_path / "file"
    write(path, "old")
    monkeypatch.setattr(os, step, failing(code))
    with refused(f"cannot write {path}: {os.strerror(code)}"):
        write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_other_errors_are_not_called_errors_of_the_disk(tmp_path):
    with pytest.raises(RuntimeError, match="mat1"), write_then_rename(tmp_path / "f"):
        torch.ones(2, 3) @ torch.ones(2, 3)
    with pytest.raises(FileNotFoundError), write_then_rename(tmp_path / "f"):
        (tmp_path / "missing").read_text()


def test_a_path_that_cannot_be_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    below, long = tmp_path / "file" / "below", tmp_path / ("x" * 300)
    for path in (below, long, tmp_path / "folder"):
        with refused(f"cannot write {path}: "):
            write(path, "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(("folder", "mode"), [(False, 0o640), (True, 0o750)])
def test_permissions_follow_the_umask(tmp_path, folder, mode):
    mask = os.umask(0o027)
    try:
        with temporary(tmp_path, folder) as (path, _):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(mask)


# JSON and checksums


def test_json_comes_back_and_has_one_form(hostile):
    value = {"b": [1, 2.5, None], "a": {"text": "Grüße 🙂"}}
    write_json(hostile, value)
    assert read_json(hostile) == value
    before = hostile.read_bytes()
    write_json(hostile, {"a": {"text": "Grüße 🙂"}, "b": [1, 2.5, None]})
    assert hostile.read_bytes() == before
    assert before.startswith(b'{\n  "a"')
    assert before.endswith(b"}\n")


def test_a_value_that_is_not_json_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "file", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"a": 1, "b": object()})
    assert read_json(tmp_path / "file") == 1
    assert os.listdir(tmp_path) == ["file"]


def test_json_that_cannot_be_read_is_named(tmp_path):
    with refused(f"missing file: {tmp_path / 'missing'}"):
        read_json(tmp_path / "missing")
    (tmp_path / "text").write_text('{"a": 1')
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    for name in ("text", "bytes", "folder"):
        with refused(f"cannot read {tmp_path / name} as JSON"):
            read_json(tmp_path / name)


def test_sha256_is_that_of_the_whole_file(tmp_path):
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")


# Names and locks


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".git", "a/b", "/", "a\0b", "x" * 201, "ä" * 101, None, 1]
)
def test_a_name_that_cannot_be_part_of_a_path_is_refused(name):
    with pytest.raises(InputError, match=r"^the loss is .*: a name must"):
        check_name(name, "the loss")


@pytest.mark.parametrize("name", ["CE+SCL", "a b", "ä" * 100, "-rf *", "a.b", "a\\b"])
def test_other_names_are_kept(name):
    assert check_name(name, "the loss") == name


def test_a_lock_is_held_by_one(tmp_path):
    folder = tmp_path / "a folder"
    with try_lock(folder / ".lock") as mine:
        assert mine
        with try_lock(folder / ".lock") as other:
            assert not other
        with refused(f"another process is writing {folder}"), hold(folder):
            pass
    with hold(folder):
        pass


def test_a_lock_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "file" / "a.lock", f"{tmp_path / 'file'} is not a folder"),
        (tmp_path / "folder", ""),
    ):
        with refused(f"cannot lock {path}: {reason}"), try_lock(path):
            pass
    for code in (errno.ENOSPC, errno.EACCES, errno.EMFILE):
        monkeypatch.setattr(os, "open", failing(code))
        with refused(os.strerror(code)), try_lock(tmp_path / "a.lock"):
            pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_refused(tmp_path, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", failing(code))
    path = tmp_path / "locks" / "a.lock"
    with refused(f"{path.parent} is on a disk without file locks"), try_lock(path):
        pass


def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail
