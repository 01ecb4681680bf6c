"""Nothing is written into a folder that a command wrote as a whole."""

import pytest

from fairseq_scl.data.download import download_task
from fairseq_scl.data.files import write_json
from fairseq_scl.data.folders import (
    MANIFEST,
    MODEL,
    check_files,
    folder_then_rename,
    hold,
)
from fairseq_scl.data.tasks import TASKS
from helpers.encoders import toy_data
from helpers.outputs import contents
from helpers.refusals import refused


def write_folder(path):
    with folder_then_rename(path, MODEL) as new:
        (new / "model.pt").write_text("1")


def fill(path):
    with hold(path):
        (path / "new").write_text("2")


@pytest.mark.parametrize("to", ["m", "m/below", "m/deep/below", "link/below"])
@pytest.mark.parametrize(
    "write",
    [
        fill,
        lambda path: check_files([path / "table.md"]),
        lambda path: write_folder(path / "another"),
        lambda path: download_task(TASKS["RTE"], path),
    ],
)
def test_a_whole_folder_stays_as_it_is(tmp_path, write, to):
    write_folder(tmp_path / "m")
    (tmp_path / "link").symlink_to("m")
    kept = contents(tmp_path / "m")
    with refused(f"nothing is added to the {MODEL} {tmp_path / 'm'}"):
        write(tmp_path / to)
    assert contents(tmp_path / "m") == kept
    assert len(list(tmp_path.iterdir())) == 2


def test_below_the_manifest_of_another_program_folders_are_filled(tmp_path):
    write_json(tmp_path / MANIFEST, {"name": "an app", "icons": []})
    write_folder(tmp_path / "m")
    fill(tmp_path / "results")
    assert (tmp_path / "results" / "new").read_text() == "2"


def test_backtranslate_refuses_it_before_it_looks_for_models(tmp_path, refusal):
    write_folder(tmp_path / "m")
    words = ["--sample", toy_data(), "--forward", "none", "--backward", "none"]
    error = refusal("backtranslate", *words, "--to", tmp_path / "m" / "below")
    assert f"nothing is added to the {MODEL} {tmp_path / 'm'}" in error
