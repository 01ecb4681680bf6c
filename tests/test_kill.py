"""A sweep of real runs under ``kill -9`` at ten random moments, and two at a time."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from toy_encoder import toy_encoder
from toy_tables import TOY_TABLE, make_toy_samples, write_toy_table

from fairseq_scl.experiments.records import RECORD, read_record

KILLS = 10
SAMPLES = 40  # so many that no driver ends before it is killed


@pytest.mark.slow
def test_ten_kills_lose_double_and_halve_nothing(tmp_path):
    data = make_toy_samples(tmp_path / "data", SAMPLES)
    table = TOY_TABLE.replace("repetitions: 3", f"repetitions: {SAMPLES}")
    argv = [
        *[sys.executable, "-m", "fairseq_scl.cli", "run"],
        *[str(write_toy_table(tmp_path, table)), "--data", str(data)],
        *["--model", str(toy_encoder()), "--results", str(tmp_path / "results")],
        *["--device", "cpu", "--jobs", "2"],
    ]
    moments = random.Random(0)
    finished: dict[str, int] = {}
    for kill in range(KILLS):
        driver = subprocess.Popen(argv, start_new_session=True)
        before = len(finished)
        while len(records(tmp_path)) == before:  # it is at work
            assert driver.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 2))
        assert driver.poll() is None, "the sweep ended before it could be killed"
        if kill % 2:  # the driver alone, or its workers with it
            os.kill(driver.pid, signal.SIGKILL)
        else:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        time.sleep(1)
        now = records(tmp_path)
        assert {name: now.get(name) for name in finished} == finished
        finished = now
    assert subprocess.run(argv, check=False).returncode == 0
    now = records(tmp_path)
    assert {name: now[name] for name in finished} == finished  # none repeated
    assert len(now) == 3 * SAMPLES  # none lost
    for name in now:  # none half-written
        folder = tmp_path / "results" / "runs" / name
        json.loads((folder / RECORD).read_text())
        assert read_record(folder).settings["name"] == name


def records(tmp_path):
    """Return the time of writing of each record."""
    found = (tmp_path / "results").glob(f"runs/*/{RECORD}")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}
