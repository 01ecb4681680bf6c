"""The wheel is complete and works without a checkout; `make help` is complete."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers import ROOT

DATA_FILES = ("py.typed", "*.json", "*.txt", "*.yaml")
STARTUP = [
    f"fairseq_scl/compat/startup/fairseq_scl_startup.{kind}" for kind in ("pth", "py")
]
TARGETS = (
    "help",
    "quickstart",
    "test",
    "test-matrix",
    "test-slurm",
    "lint",
    "bench",
    "clean",
)


def without_make(**more):
    """The environment without the variables that an outer ``make test`` sets."""
    names = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "VENV")
    return {k: v for k, v in os.environ.items() if k not in names} | more


def run(*command, cwd=None, **environment):
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=without_make(**environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that the checkout stays unchanged."""
    copy = tmp_path_factory.mktemp("a copy with spaces")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            (copy / name).write_bytes((ROOT / name).read_bytes())
    for source in (*package_files(), *STARTUP):
        (copy / source).parent.mkdir(parents=True, exist_ok=True)
        (copy / source).write_bytes((ROOT / source).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    run(*pip, "--quiet", "--no-deps", "--no-build-isolation", "-w", copy / "dist", copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def package_files():
    """All files of the package that a user needs, relative to the root."""
    package = ROOT / "fairseq_scl"
    files = [path for kind in ("*.py", *DATA_FILES) for path in package.rglob(kind)]
    files = [path for path in files if "startup" not in path.parts]
    return sorted(str(path.relative_to(ROOT)) for path in files)


def test_wheel_has_exactly_the_modules_and_data_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = sorted(name for name in names if "-0.1.0." not in name)
    assert held == package_files()
    startup = [Path(name).name for name in names if ".data/purelib/" in name]
    assert sorted(startup) == [Path(name).name for name in STARTUP]


def test_editable_installation_has_the_start_up_file(wheel, tmp_path):
    build = "import sys, setuptools.build_meta as b; b.build_editable(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=wheel.parents[1])
    (editable,) = tmp_path.glob("*.whl")
    names = {Path(name).name for name in zipfile.ZipFile(editable).namelist()}
    assert {Path(name).name for name in STARTUP} <= names


def test_wheel_names_license_command_and_requirements(wheel):
    archive = zipfile.ZipFile(wheel)
    info = {Path(name).name: name for name in archive.namelist() if "-info/" in name}
    assert "LICENSE" in info
    commands = archive.read(info["entry_points.txt"]).decode()
    assert "fairseq-scl = fairseq_scl.cli:main" in commands
    metadata = archive.read(info["METADATA"]).decode()
    assert "Requires-Dist: fairseq-fixed==0.12.3.1\n" in metadata
    assert "Project-URL: Paper, https://arxiv.org/abs/2011.01403\n" in metadata
    assert "License-File: LICENSE\n" in metadata


def test_command_of_the_installed_wheel_prints_the_user_dir(wheel, tmp_path):
    place = tmp_path / "installed here"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    run(*pip, "--quiet", "--no-deps", "--no-compile", "--target", place, wheel)
    command = [place / "bin" / "fairseq-scl", "user-dir"]
    printed = run(*command, cwd=tmp_path, PYTHONPATH=str(place))
    assert printed == f"{place / 'fairseq_scl'}\n"
    assert (Path(printed.rstrip("\n")) / "__init__.py").is_file()


@pytest.mark.slow
def test_quick_start_of_the_wheel_in_an_empty_environment(wheel, tmp_path):
    """The installation in docs/platforms.md; needs a package index; takes 3 minutes."""
    run(sys.executable, "-m", "venv", "--clear", "--upgrade-deps", tmp_path / "venv")
    bin = tmp_path / "venv" / "bin"
    here = {"cwd": tmp_path, "PYTHONPATH": "", "PATH": f"{bin}:{os.environ['PATH']}"}
    pip = ["pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    run(*pip, "torch", "numpy", "cython", "setuptools", "wheel", **here)
    fairseq = ["--no-build-isolation", "--no-deps", "fairseq-fixed"]
    run(*pip, *fairseq, **here)
    run(*pip, wheel, **here)
    assert run("fairseq-scl", "doctor", **here).endswith("no problems found\n")
    assert "--scl-lambda" in run(
        "fairseq-train",
        *("--user-dir", run("fairseq-scl", "user-dir", **here).rstrip()),
        *("--criterion", "sentence_prediction_scl", "--help"),
        **here,
    )
    sizes = {"samples": 1, "size": 20, "updates": 4, "validations": 1}
    small = [word for name, size in sizes.items() for word in (f"--{name}", size)]
    run("fairseq-scl", "quickstart", *small, "--device", "cpu", **here)
    (tmp_path / "texts").write_text("a gripping film\na dull story\n", "utf-8")
    model = ["--model", "data-bin/quickstart/classifier"]
    lines = run("fairseq-scl", "predict", *model, "texts", **here).splitlines()
    assert len(lines) == 2
    assert {line.split()[0] for line in lines} <= {"negative", "positive"}


def test_make_help_lists_every_target():
    listed = [line.split()[0] for line in run("make", "-C", ROOT, "help").splitlines()]
    assert set(TARGETS) <= set(listed)
    assert run("make", "-C", ROOT) == run("make", "-C", ROOT, "help")


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_has_the_target(target):
    run("make", "--dry-run", "-C", ROOT, target)


@pytest.mark.parametrize(
    ("file", "pythons"),
    [
        ("constraints.txt", ["3.11", "3.12", "3.13", "3.14"]),
        ("constraints-newest.txt", ["3.12", "3.13", "3.14"]),
    ],
)
def test_constraints_pin_every_requirement_once_on_each_python(wheel, file, pythons):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    needed = {
        Requirement(line.partition(": ")[2]).name
        for line in archive.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ")
    }
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for version in pythons:
        apply = [
            pin.name
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"python_version": version})
        ]
        assert len(apply) == len(set(apply))
        assert needed <= set(apply)
    assert all(str(pin.specifier).startswith("==") for pin in pins)
