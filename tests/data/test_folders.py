"""What was in a folder is never lost: whole, recognized, verified folders."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from fairseq_scl.data import renames
from fairseq_scl.data.files import read_json, write_json
from fairseq_scl.data.folders import (
    LISTED,
    MANIFEST,
    check_files,
    check_holds_only,
    folder_then_rename,
    list_files,
    verify,
)
from fairseq_scl.errors import InputError
from helpers.outputs import full_disk
from helpers.refusals import refused

KIND = "toy folder"


@pytest.fixture(params=["exchange", "two renames"])
def exchange(request, monkeypatch):
    """Both ways to put a folder in the place of another."""
    if request.param == "two renames":
        monkeypatch.setattr(renames.ctypes, "CDLL", lambda *_, **__: object())


def write_folder(path, inputs=(), **texts):
    """Write a folder of texts by way of a temporary folder."""
    with folder_then_rename(path, KIND, inputs) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def write_and_stop(path, error):
    """Raise an error in the middle of a folder."""
    with folder_then_rename(path, KIND) as folder:
        (folder / "new").write_text("half")
        raise error("stop")


def tree(folder):
    """Return every path of a folder, with the bytes of files and targets of links."""
    found = {}
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isdir(path):
                found[path] = None
            else:
                with open(path, "rb") as file:
                    found[path] = file.read()
    return found


def test_a_folder_is_written_whole_under_any_name(hostile):
    write_folder(hostile, a="1", b="2")
    assert sorted(os.listdir(hostile)) == ["a", "b", MANIFEST]
    assert os.listdir(hostile.parent) == [hostile.name]


def test_the_manifest_lists_kind_and_checksums(tmp_path):
    with folder_then_rename(tmp_path / "folder", KIND) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert read_json(tmp_path / "folder" / MANIFEST) == {
        "schema": 1,
        "kind": KIND,
        "sha256": {"below/file": empty},
    }


def test_the_new_folder_replaces_the_old_one_at_once(tmp_path, exchange):
    path = tmp_path / "folder"
    write_folder(path, old="1")
    with folder_then_rename(path, KIND) as folder:
        (folder / "new").write_text("2")
        assert sorted(os.listdir(path)) == [MANIFEST, "old"]
    assert sorted(os.listdir(path)) == [MANIFEST, "new"]
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_an_error_in_the_block_keeps_the_old_folder(hostile, error):
    write_folder(hostile, old="1")
    before = tree(hostile.parent)
    with pytest.raises(error, match="stop"):
        write_and_stop(hostile, error)
    assert tree(hostile.parent) == before


def test_a_full_disk_is_named_and_keeps_the_old_folder(hostile):
    write_folder(hostile, old="1")
    before = tree(hostile.parent)
    with full_disk(), pytest.raises(InputError) as caught:
        write_folder(hostile, new="x" * 10_000)
    assert str(caught.value) == f"cannot write {hostile}: File too large"
    assert tree(hostile.parent) == before


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_rename_that_fails_keeps_the_old_folder(tmp_path, monkeypatch, failing):
    path = tmp_path / "folder"
    write_folder(path, old="1")
    before = tree(tmp_path)
    calls, replace = [], os.replace

    def fail_once(source, target):
        if os.path.dirname(target) == str(tmp_path):  # not those of files inside
            calls.append(target)
            if len(calls) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(renames.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(os, "replace", fail_once)
    with refused(f"cannot write {path}: No space left on device"):
        write_folder(path, new="2")
    assert tree(tmp_path) == before


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to("loop")
    long, loop = tmp_path / ("x" * 300), tmp_path / "loop" / "below"
    for path in (tmp_path / "file" / "below", long, loop):
        with refused(f"cannot write {path}: "):
            write_folder(path, a="new")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


# What is replaced


FOREIGN = {
    "a file": lambda path: (path / "notes.txt").write_text("mine"),
    "a hidden file": lambda path: (path / ".env").write_text("mine"),
    "a repository": lambda path: (path / ".git").mkdir(),
    "an empty folder": lambda path: (path / "below" / "empty").mkdir(),
    "a file below": lambda path: (path / "below" / "thesis.tex").write_text("mine"),
    "a link to a file": lambda path: (path / "link").symlink_to("/etc/hostname"),
    "a link to a folder": lambda path: (path / "link").symlink_to("/"),
    "a changed file": lambda path: (path / "below" / "old").write_text("mine"),
    "a file for a folder": lambda path: (
        (path / "below" / "old").unlink(),
        (path / "below").rmdir(),
        (path / "below").write_text("mine"),
    ),
    "another kind": lambda path: write_json(
        path / MANIFEST, {**read_json(path / MANIFEST), "kind": "another"}
    ),
    "an earlier version": lambda path: write_json(
        path / MANIFEST, {"schema": 1, "sha256": read_json(path / MANIFEST)["sha256"]}
    ),
    "a list": lambda path: write_json(path / MANIFEST, ["below/old"]),
    "another manifest": lambda path: write_json(path / MANIFEST, {"name": "an app"}),
    "no checksums": lambda path: write_json(
        path / MANIFEST, {"kind": KIND, "sha256": {"below/old": None}}
    ),
    "no manifest": lambda path: (path / MANIFEST).unlink(),
    "no text": lambda path: (path / MANIFEST).write_bytes(b"\xff{"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_with_anything_else_is_not_replaced(tmp_path, what):
    path = tmp_path / "folder"
    with folder_then_rename(path, KIND) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "old").write_text("1")
    FOREIGN[what](path)
    before = tree(tmp_path)
    with refused(path, "delete it yourself"):
        write_folder(path, new="2")
    assert tree(tmp_path) == before


def test_a_folder_created_in_the_meantime_is_not_replaced(tmp_path):
    path = tmp_path / "folder"
    write_folder(path, old="1")
    with (
        pytest.raises(InputError, match=r"contains notes\.txt"),
        folder_then_rename(path, KIND),
    ):
        (path / "notes.txt").write_text("mine")
    assert sorted(os.listdir(path)) == [MANIFEST, "notes.txt", "old"]
    assert os.listdir(tmp_path) == ["folder"]


def test_an_empty_folder_is_filled(tmp_path, exchange):
    (tmp_path / "folder").mkdir()
    write_folder(tmp_path / "folder", new="1")
    assert sorted(os.listdir(tmp_path / "folder")) == [MANIFEST, "new"]


@pytest.mark.parametrize("to", [".", "..", "../here", "{tmp}/here"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, to):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="current folder"):
        write_folder(to.format(tmp=tmp_path), new="1")
    assert tree(tmp_path) == {str(tmp_path / "here"): None}


@pytest.mark.parametrize("target", ["ours", "missing"])
def test_a_symbolic_link_is_not_replaced(tmp_path, target):
    write_folder(tmp_path / "ours", old="1")
    (tmp_path / "link").symlink_to(tmp_path / target)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="link is a symbolic link"):
        write_folder(tmp_path / "link", new="2")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("to", "given"),
    [("a", "a"), ("a/b", "a"), ("a", "a/b"), ("link", "a"), ("a", "a/file")],
)
def test_a_folder_that_is_read_is_not_written(tmp_path, to, given):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("mine")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    (tmp_path / "link").symlink_to("a")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"{to}' is, contains or lies in .*{given}"):
        write_folder(tmp_path / to, [tmp_path / given], new="1")
    assert tree(tmp_path) == before


def test_a_new_folder_may_lie_among_texts_that_are_read(tmp_path):
    (tmp_path / "train.input0").write_text("mine")
    write_folder(tmp_path / "data", [tmp_path], new="1")
    assert (tmp_path / "data" / "new").read_text() == "1"


# What killed processes leave


def killed_in_the_middle(path):
    """Let a process be killed while it writes a folder."""
    child = os.fork()
    if child == 0:
        with folder_then_rename(path, KIND) as folder:
            (folder / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_leftovers_of_the_dead_are_removed_and_no_others(tmp_path):
    killed_in_the_middle(tmp_path / "folder")
    (leftover,) = os.listdir(tmp_path)
    others = [".folder.abcdefgh", f"{renames.PREFIX}a", f"{leftover}.mine"]
    for name in others:
        (tmp_path / name).write_text("mine")
    alive = tmp_path / f"{renames.PREFIX}abcdefgh"
    with alive.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_folder(tmp_path / "folder", new="1")
        assert sorted(os.listdir(tmp_path)) == sorted([*others, alive.name, "folder"])
    write_json(tmp_path / "file", 1)
    assert not alive.exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_kill_between_two_renames_is_made_good(tmp_path, there):
    path = tmp_path / "folder"
    write_folder(path, old="1")
    path.rename(tmp_path / f"{renames.OLD}folder")
    if there:
        write_folder(path, old="1")
    with pytest.raises(ValueError, match="stop"):
        write_and_stop(path, ValueError)
    assert os.listdir(tmp_path) == ["folder"]
    assert (path / "old").read_text() == "1"


# Manifests are read


def test_a_changed_or_missing_file_is_named(tmp_path):
    path = tmp_path / "folder"
    write_folder(path, a="12", b="34")
    verify(path)
    (path / "b").write_text("35")
    with pytest.raises(InputError, match=f"^{path}/b was changed"):
        verify(path)
    (path / "a").unlink()
    with pytest.raises(InputError, match=f"^missing file: {path}/a, "):
        verify(path)
    (path / MANIFEST).write_text('{"sha256": ["a"]}')
    with pytest.raises(InputError, match=f"^{path}/{MANIFEST}: sha256: "):
        verify(path)


# Files and work in folders of others


def test_files_of_others_are_not_replaced(tmp_path):
    ours, mine = tmp_path / "table.md", tmp_path / "runs.csv"
    list_files([ours])
    ours.write_text("1")
    check_files([ours, mine])  # one of ours, one that is not there
    mine.write_text("years of work")
    for attempt in (check_files, list_files):
        with pytest.raises(InputError, match=r"runs\.csv is not replaced"):
            attempt([ours, mine])
    assert read_json(tmp_path / LISTED)["files"] == ["table.md"]
    for damaged in ('["table.md"]', '{"files": ["table.md"]}', "{"):
        (tmp_path / LISTED).write_text(damaged)
        with pytest.raises(InputError, match=r"table\.md is not replaced"):
            check_files([ours])


def test_unfinished_work_is_deleted_only_if_nothing_else_is_there(tmp_path):
    check_holds_only(tmp_path / "missing", ["*.log"])
    (tmp_path / "a.log").touch()
    (tmp_path / f"{renames.PREFIX}abcdefgh").touch()
    check_holds_only(tmp_path, ["b.json", "*.log"])
    (tmp_path / "folder.log").mkdir()
    with refused("contains folder.log, which no command wrote"):
        check_holds_only(tmp_path, ["b.json", "*.log"])


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_a_manifest_that_cannot_be_read_is_not_a_missing_one(tmp_path, put):
    put(tmp_path / MANIFEST)
    with pytest.raises(InputError, match=MANIFEST):
        verify(tmp_path)
