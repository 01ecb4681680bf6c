"""A file that exists is complete: what was there stays until the new one is whole."""

import errno
import hashlib
import os
import stat

import pytest
import torch

from fairseq_scl.data.files import (
    check_name,
    hold,
    read_json,
    sha256,
    try_lock,
    write_json,
    write_then_rename,
)
from fairseq_scl.errors import InputError
from helpers.outputs import HOSTILE, full_disk
from helpers.refusals import refused


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    """A path in a folder, both with a name that breaks careless code."""
    return tmp_path / request.param / request.param


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


def test_a_file_is_written_whole_under_any_name(hostile):
    write(hostile, "Grüße\nzwei\n")
    assert hostile.read_bytes() == "Grüße\nzwei\n".encode()
    assert os.listdir(hostile.parent) == [hostile.name]


def test_newlines_are_written_as_they_are(tmp_path):
    write(tmp_path / "file", "a\r\nb\n")
    assert (tmp_path / "file").read_bytes() == b"a\r\nb\n"


def test_bytes_are_written_in_binary_mode(tmp_path):
    with write_then_rename(tmp_path / "file", "wb") as file:
        file.write(b"\xff\x00")
    assert (tmp_path / "file").read_bytes() == b"\xff\x00"


def test_the_old_file_is_kept_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with write_then_rename(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_an_error_in_the_block_keeps_the_old_file(hostile, error):
    write(hostile, "old")
    with pytest.raises(error, match="stop"):
        write_and_stop(hostile, error)
    assert hostile.read_text() == "old"
    assert os.listdir(hostile.parent) == [hostile.name]


def test_an_error_in_the_block_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="stop"):
        write_and_stop(tmp_path / "file", ValueError)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_full_disk_is_named_and_keeps_the_old_file(hostile, mode):
    write(hostile, "old")
    text = "x" * 10_000 if mode == "w" else b"x" * 10_000
    with (
        full_disk(),
        pytest.raises(InputError) as caught,
        write_then_rename(hostile, mode) as file,
    ):
        file.write(text)
    assert str(caught.value) == f"cannot write {hostile}: File too large"
    assert hostile.read_text() == "old"
    assert os.listdir(hostile.parent) == [hostile.name]


def test_a_full_disk_is_named_when_pytorch_saves(tmp_path):
    """torch.save turns the error of the disk into one about its own bookkeeping."""
    path = tmp_path / "model.pt"
    path.write_text("old")
    with (
        full_disk(),
        pytest.raises(InputError) as caught,
        write_then_rename(path, "wb") as file,
    ):
        torch.save({"model": torch.zeros(10_000)}, file)
    assert str(caught.value) == f"cannot write {path}: File too large"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_late_keeps_the_old_file(tmp_path, monkeypatch, step, code):
    path = tmp_path / "file"
    write(path, "old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, fail)
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
        with pytest.raises(InputError, match=f"^cannot write {path}: "):
            write(path, "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_permissions_follow_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        write(tmp_path / "file", "text")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


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
        with pytest.raises(InputError, match=f"^cannot read {tmp_path / name} as JSON"):
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
    path = tmp_path / "locks" / "a.lock"
    with try_lock(path) as mine:
        assert mine
        with try_lock(path) as other:
            assert not other
        with (
            pytest.raises(InputError, match="another process is writing the folder"),
            hold(path, "the folder"),
        ):
            pass
    with hold(path, "the folder"):
        pass


def test_a_lock_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "file" / "a.lock", f"{tmp_path / 'file'} is not a folder"),
        (tmp_path / "folder", ""),
    ):
        with (
            pytest.raises(InputError, match=f"cannot lock {path}: {reason}"),
            try_lock(path),
        ):
            pass
    for code in (errno.ENOSPC, errno.EACCES, errno.EMFILE):
        monkeypatch.setattr(os, "open", failing(code))
        with pytest.raises(InputError) as caught, try_lock(tmp_path / "a.lock"):
            pass
        assert os.strerror(code) in str(caught.value)


def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail
