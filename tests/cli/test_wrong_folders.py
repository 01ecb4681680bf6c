"""Folders that a verb cannot use are refused before it writes anything."""

import shutil

import pytest

from fairseq_scl.data.folders import DATA, ENCODER, MODEL
from helpers.encoders import make_sentences, toy_data, toy_encoder, toy_model
from helpers.outputs import contents
from helpers.tables import write_labeled

SOURCES = {"encoder": toy_encoder, "data": toy_data, "model": toy_model}


@pytest.fixture
def folders(tmp_path):
    """Return a folder with a table, and whole folders of each kind."""
    write_labeled(tmp_path / "table.csv", make_sentences(40))
    for name, make in SOURCES.items():
        shutil.copytree(make(), tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("verb", "to", "kind"),
    [
        ("compare", "model", MODEL),
        ("compare", "encoder/results", ENCODER),
        ("quickstart", "data", DATA),
        ("run", "model/results", MODEL),
        ("train", "encoder/m", ENCODER),
        ("train", "data/m", DATA),
    ],
)
def test_results_are_not_written_into_a_whole_folder(folders, run, toy, verb, to, kind):
    target, table = folders / to, folders / "table.csv"
    encoder = ["--encoder", folders / "encoder", "--device", "cpu"]
    words = {
        "quickstart": [verb, "--output", target, "--device", "cpu"],
        "run": [*toy, "--results", target, "--device", "cpu"],
    }.get(verb, [verb, table, "--to", target, *encoder])
    kept = contents(folders)
    status, _, error = run(*words)
    assert status == 2
    assert f"lies in the {kind} {folders / to.partition('/')[0]}, to which" in error
    assert contents(folders) == kept
