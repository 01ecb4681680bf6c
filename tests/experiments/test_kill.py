"""``kill -9``: before each change to the file system, and of a sweep of real runs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

import pytest

from fairseq_scl.augment import backtranslate as augment
from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data import renames
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.files import write_then_rename
from fairseq_scl.data.folders import list_files
from fairseq_scl.experiments import runner, sweep
from fairseq_scl.experiments.results_folder import RECORD, read_record
from helpers.encoders import make_splits, toy_bert, toy_data, toy_encoder, toy_run
from helpers.tables import TOY_TABLE, make_toy_samples, write_toy_table

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLS = 10
SAMPLES = 40  # so many that no driver ends before it is killed


def prepare(folder):
    """Write a data folder over an older one."""
    binarize(make_splits(train=6, valid=4, test=4), toy_encoder(), folder / "data")


def convert(folder):
    """Write an encoder folder."""
    convert_encoder(toy_bert(), folder / "encoder")


def train(folder):
    """Do a run with a training that writes two validations."""

    def train_here(run, argv, folder):
        row = {"update": 1, "n_correct": 1, "n_total": 2, "ce_loss": 0, "scl_loss": 0}
        for subset in ("valid", "test"):
            with open(folder / runner.METRICS, "a") as file:
                file.write(json.dumps({**row, "subset": subset}) + "\n")
        (folder / runner.BEST).write_bytes(b"weights")
        return 0

    with (
        mock.patch.object(sweep, "train_here", train_here),
        mock.patch.object(runner, "origin", lambda sums: {"sha256": dict(sums)}),
        mock.patch.object(runner.time, "monotonic", return_value=0.0),
    ):
        sweep.work([toy_run(data=toy_data())], folder)


def backtranslate(folder):
    """Write an augmented file in chunks of two examples."""
    method = DecodingMethod(1.0)
    plan = augment.Plan(0, 1, method, method, {})
    examples = make_splits(train=3, valid=2, test=2)["train"]

    def rows(chunk, *_, first, **__):
        numbered = enumerate((example.sentences[0] for example in chunk), first)
        keys = {"copy": 0, "unchanged": True}
        return [{"origin": i, "source0": text, **keys} for i, text in numbered]

    with (
        mock.patch.object(augment, "EXAMPLES_AT_ONCE", 2),
        mock.patch.object(augment, "backtranslated", rows),
        mock.patch.object(augment, "has_unknown_pieces", return_value=False),
    ):
        target = folder / "a-bt1.jsonl"
        augment.backtranslate(examples, None, None, plan, target)


def files(folder):
    """Write two files into a folder of the user, which has others."""
    paths = [folder / "mine" / name for name in ("table.md", "runs.csv")]
    list_files(paths)
    for path in paths:
        with write_then_rename(path) as file:
            file.write(path.name)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("command", "exchange"),
    [
        *[(prepare, True), (prepare, False), (convert, True)],
        *[(train, True), (backtranslate, True), (files, True)],
    ],
)
def test_a_kill_before_any_change_is_made_good(tmp_path, command, exchange, step):
    """After it, what was there is whole, and the next command finishes as ever."""
    before, fresh, work = (tmp_path / name for name in ("before", "fresh", "work"))
    (before / "mine").mkdir(parents=True)
    (before / "mine" / "notes.txt").write_text("years of work")
    if command is prepare:
        binarize(make_splits(train=4, valid=2, test=2), toy_encoder(), before / "data")
    shutil.copytree(before, fresh)
    command(fresh)
    for number in range(0, 500, step):
        shutil.copytree(before, work)
        killed = killed_before(number, command, work, exchange)
        found = snapshot(work)
        assert found["mine/notes.txt"] == b"years of work"
        if exchange and command in (prepare, convert):
            whole = {name: text for name, text in found.items() if name[0] != "."}
            assert whole in (snapshot(before), snapshot(fresh)), number
        command(work)
        assert snapshot(work) == snapshot(fresh), number
        shutil.rmtree(work)
        if not killed:
            break
    assert 8 < number < 490


def killed_before(number, command, folder, exchange):
    """Run a command in a fork that dies at its change number ``number``, from 0."""
    child = os.fork()
    if child == 0:
        try:
            _die_before(number, exchange)
            command(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def _die_before(number, exchange):
    left = number

    def change():
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def audit(event, arguments):
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
            change()

    fsync, swap = os.fsync, renames._exchange
    os.fsync = lambda descriptor: (change(), fsync(descriptor))
    renames._exchange = lambda new, path: (change(), swap(new, path))
    if not exchange:
        renames.ctypes.CDLL = lambda *_, **__: object()
    sys.addaudithook(audit)


def snapshot(folder):
    """Return the files of a folder by name, but locks and records of times."""
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(
            bytes(folder), b"FOLDER"
        )
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.slow
def test_ten_kills_lose_duplicate_and_truncate_nothing(tmp_path):
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
