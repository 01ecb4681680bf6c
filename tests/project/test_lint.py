"""The checks of `make lint`, each as a test that shows the tool's findings."""

import shutil
import sys
from pathlib import Path

import pytest

from helpers import ROOT, run_process

MOST_LINES = 350


def run_tool(name, *arguments):
    """Run a tool of this environment at the root; fail with its output."""
    beside_python = shutil.which(name, path=str(Path(sys.executable).parent))
    tool = beside_python or shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed (it comes with `make test`)")
    ended = run_process(tool, *arguments, cwd=ROOT)
    assert ended.returncode == 0, f"{name}:\n{ended.stdout}{ended.stderr}"


def shell_scripts():
    scripts = [ROOT / ".ci" / "run", *sorted(ROOT.glob("scripts/**/*.sh"))]
    return [str(path.relative_to(ROOT)) for path in scripts]


def test_ruff_finds_nothing():
    run_tool("ruff", "check", ".")


def test_every_file_is_formatted():
    run_tool("ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    run_tool("mypy")


def test_imports_follow_the_layers():
    run_tool("lint-imports")


def test_shellcheck_finds_nothing():
    run_tool("shellcheck", *shell_scripts())


@pytest.mark.parametrize("script", shell_scripts())
def test_shell_script_stops_at_the_first_error(script):
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text(encoding="utf-8")


def test_package_files_are_short():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in ROOT.glob("fairseq_scl/**/*.py")
    }
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}
