"""Downloads: fetched once, checked always, never kept when wrong."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from fairseq_scl.data import packages
from fairseq_scl.data.packages import Package, default_cache, fetch
from helpers.refusals import refused

GOOD, BAD = b"the right content", b"another content"
PACKAGE = Package(
    name="some-package",
    version="1.2.3",
    file="some_package-1.2.3-py3-none-any.whl",
    sha256=hashlib.sha256(GOOD).hexdigest(),
    megabytes=0.1,
)


class FakePip:
    """Stands for ``subprocess.run``: notes commands, delivers a file or an error."""

    def __init__(self, content=GOOD, status=0, output="", file=PACKAGE.file):
        self.content, self.status, self.output = content, status, output
        self.file = file
        self.commands = []
        self.requirement = ""

    def __call__(self, command, **_):
        self.commands.append(command)
        asked = Path(command[command.index("--requirement") + 1])
        self.requirement = asked.read_text("utf-8")
        if self.content is not None:
            Path(command[command.index("--dest") + 1], self.file).write_bytes(
                self.content
            )
        return subprocess.CompletedProcess(command, self.status, "", self.output)


@pytest.fixture
def pip(monkeypatch):
    """Install a fake pip; the test says what it does."""

    def install(**behavior):
        fake = FakePip(**behavior)
        monkeypatch.setattr(packages.subprocess, "run", fake)
        return fake

    return install


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_by_name_and_version_without_installing(pip, tmp_path):
    fake = pip()
    kept = fetch(PACKAGE, tmp_path / "cache")
    assert kept == tmp_path / "cache" / PACKAGE.file
    assert kept.read_bytes() == GOOD
    (command,) = fake.commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert fake.requirement == f"some-package==1.2.3 --hash=sha256:{PACKAGE.sha256}\n"
    assert {"--no-deps", "--require-hashes"} <= set(command)
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_a_source_distribution_is_asked_for_as_one(pip, tmp_path):
    file = "some-package-1.2.3.tar.gz"
    fake = pip(file=file)
    source = Package("some-package", "1.2.3", file, PACKAGE.sha256, 0.1)
    assert fetch(source, tmp_path).read_bytes() == GOOD
    assert "--no-binary" in fake.commands[0]
    assert "--only-binary" not in fake.commands[0]


@pytest.mark.parametrize(("there", "calls"), [(GOOD, 0), (GOOD[:5], 1)])
def test_only_a_damaged_file_in_the_cache_is_fetched_again(pip, tmp_path, there, calls):
    (tmp_path / PACKAGE.file).write_bytes(there)
    fake = pip()
    assert fetch(PACKAGE, tmp_path).read_bytes() == GOOD
    assert len(fake.commands) == calls


def test_a_wrong_download_is_refused_and_leaves_the_cache_as_it_was(pip, tmp_path):
    pip(content=BAD)
    with refused(PACKAGE.file, hashlib.sha256(BAD).hexdigest(), PACKAGE.sha256):
        fetch(PACKAGE, tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "other.whl").write_bytes(GOOD)
    (tmp_path / PACKAGE.file).write_bytes(GOOD[:5])
    with refused("it is not used"):
        fetch(PACKAGE, tmp_path)
    assert names(tmp_path) == sorted(["other.whl", PACKAGE.file])
    assert (tmp_path / PACKAGE.file).read_bytes() == GOOD[:5]


NO_VERSION = (
    "WARNING: Retrying\n"
    "ERROR: Could not find a version that satisfies the requirement x\n"
    "ERROR: No matching distribution found for some-package==1.2.3\n"
    "[notice] A new release of pip is available\n"
)
NO_PIP = "/usr/bin/python3: No module named pip\n"


@pytest.mark.parametrize(
    ("behavior", "words"),
    [
        ({"output": NO_VERSION}, "ERROR: No matching distribution found for some-p"),
        ({"output": NO_PIP}, "No module named pip; the network"),
        ({"file": "some_package-1.2.3-py2-none-any.whl"}, "pip returned another file"),
    ],
)
def test_what_pip_says_is_quoted_when_it_fails(pip, tmp_path, behavior, words):
    if "output" in behavior:
        behavior |= {"content": None, "status": 1}
    pip(**behavior)
    with refused("pip could not download some-package==1.2.3: ", words):
        fetch(PACKAGE, tmp_path)
    assert names(tmp_path) == []


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "fairseq-scl"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "fairseq-scl"
