"""The scripts of the tables, from official files to the report, on toys."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from toy_encoder import toy_encoder
from toy_tasks import write_sst2

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
# Not what a user runs for a result: it sets up .venv.
RESULTS = [path for path in SCRIPTS if path.name != "install.sh"]


def run(script, cwd, *options, **environment):
    if shutil.which("fairseq-scl") is None:
        pytest.skip("fairseq-scl is not on the PATH")
    return subprocess.run(
        ["bash", ROOT / "scripts" / script, *options],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_scripts_are_short_and_say_what_they_do(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 40
    assert text.startswith("#!/usr/bin/env bash\n# ")
    for word in ("# Usage:", "# Writes:", "ost:", "set -euo pipefail"):
        assert word in text, word
    assert os.access(path, os.X_OK)


def test_table4_goes_from_the_files_to_the_report(tmp_path):
    done = run(
        *("table4.sh", tmp_path, "--smoke", "--jobs", "2"),
        *("--device", "cpu", "--only", "task=SST-2,n=20"),
        ENCODER=str(toy_encoder()),
        GLUE=str(write_sst2(tmp_path / "glue")),
        TASKS="SST-2",
        SIZES="20",
        PREPARE="--partial --size-valid 8 --size-test 8",
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 6 runs are done" in done.stdout
    assert "| 20 | CE+SCL |" in done.stdout
    assert "88.1 ± 3.3" in done.stdout
    results = tmp_path / "outputs" / "table4-smoke"
    for name in ("table.md", "table.tex", "table.csv", "runs.csv", "report.html"):
        assert (results / name).stat().st_size > 0


def test_a_missing_encoder_is_named(tmp_path):
    done = run("table4.sh", tmp_path, ENCODER="")
    assert done.returncode != 0
    assert "ENCODER: name an encoder folder" in done.stderr
    done = run("table4.sh", tmp_path, ENCODER="nowhere")
    assert "'nowhere', which holds no dict.txt" in done.stderr
