"""``scripts/install.sh`` with a fake Python that records the calls of pip."""

import os

import pytest

from helpers import ROOT, run_process

STAND_IN = """#!/usr/bin/env bash
case "$*" in
  --version) echo "Python $VERSION" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"pip install"*)
    echo "$*" >>"$LOG"
    [[ "$*" != *"${FAIL_AT:-nowhere}"* ]] || exit 1
    for name in fairseq-train fairseq-scl pytest; do
      cp "$0" "$(dirname "$0")/$name"
    done ;;
esac
"""


STEPS = ["numpy", "torch", "fairseq-fixed", "fastBPE", ".[dev]"]


class Installation:
    """A folder with a space in its name, a fake Python, and the calls of pip."""

    def __init__(self, folder):
        self.venv = folder / "v e"
        self.python = folder / "a python"
        self.log = folder / "log"
        self.python.write_text(STAND_IN, encoding="utf-8")
        self.python.chmod(0o755)

    def run(self, version="3.11.7", **more):
        """Run the script; return exit status, output and pip's last arguments."""
        self.log.write_text("", encoding="utf-8")
        ended = run_process(
            ROOT / "scripts" / "install.sh",
            env=os.environ
            | {"PYTHON": str(self.python), "VENV": str(self.venv)}
            | {"LOG": str(self.log), "VERSION": version}
            | more,
        )
        asked = [line.split()[-1] for line in self.log.read_text("utf-8").splitlines()]
        return ended.returncode, ended.stdout + ended.stderr, asked


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


def test_pytorch_comes_before_fairseq_and_the_package_last(installation):
    status, said, asked = installation.run()
    assert status == 0, said
    assert asked == STEPS


def test_second_run_does_nothing(installation):
    installation.run()
    assert installation.run() == (0, "", [])
    assert installation.run(PYTHON="") == (0, "", [])


@pytest.mark.parametrize("step", [*STEPS[:3], STEPS[-1]])
def test_interrupted_installation_starts_over(installation, step):
    status, _, asked = installation.run(FAIL_AT=step)
    assert status != 0
    assert asked[-1] == step
    (installation.venv / "left over").touch()
    status, _, asked = installation.run()
    assert status == 0
    assert asked == STEPS
    assert not (installation.venv / "left over").exists()


def test_installation_continues_without_fastbpe(installation):
    status, said, asked = installation.run(FAIL_AT="fastBPE")
    assert (status, asked) == (0, STEPS)
    assert "fastBPE cannot be built here; back-translation applies its codes" in said


@pytest.mark.parametrize("lost", ["python", "fairseq-train", "fairseq-scl", "pytest"])
def test_broken_environment_is_recreated(installation, lost):
    installation.run()
    (installation.venv / "bin" / lost).unlink()
    _, _, asked = installation.run()
    assert asked[0] == "numpy"
    assert (installation.venv / "bin" / lost).exists()


def test_moved_environment_is_recreated(installation):
    installation.run()
    installation.venv = installation.venv.rename(installation.venv.with_name("moved"))
    assert installation.run()[2] == STEPS


def test_another_python_recreates_the_environment(installation):
    installation.run()
    stamp = installation.venv / ".installed"
    before = stamp.stat().st_mtime_ns
    other = installation.python.with_name("python3.12")
    other.write_text(STAND_IN.replace("$VERSION", "3.12.1"), encoding="utf-8")
    other.chmod(0o755)
    assert installation.run(PYTHON=str(other))[2][0] == "numpy"
    assert stamp.stat().st_mtime_ns > before


def test_unsupported_python_is_refused(installation):
    status, said, _ = installation.run(version="3.10.13")
    assert status == 2
    assert said == (
        "install.sh: CPython 3.11 to 3.14 is needed, found: "
        f"{installation.python} (Python 3.10.13); install one, or name it with "
        "PYTHON=/path/to/python3.11\n"
    )
    assert not installation.venv.exists()


def test_other_constraints_are_installed(installation):
    installation.run()
    newest = {"CONSTRAINTS": "constraints-newest.txt"}
    assert installation.run(**newest)[2] == STEPS
    assert "--constraint constraints-newest.txt" in installation.log.read_text("utf-8")
    assert installation.run(**newest)[2] == []
    status, said, _ = installation.run(CONSTRAINTS="no-file.txt")
    assert status == 2
    assert said.startswith(
        "install.sh: CONSTRAINTS is no-file.txt, which is not a file"
    )


def test_a_foreign_folder_is_not_changed(installation):
    installation.venv.mkdir()
    (installation.venv / "thesis.tex").write_text("years of work", encoding="utf-8")
    status, said, _ = installation.run()
    assert status == 2
    assert f"{installation.venv} exists and was not made by this script" in said
    assert [path.name for path in installation.venv.iterdir()] == ["thesis.tex"]
