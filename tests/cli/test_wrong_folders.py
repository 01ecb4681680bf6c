"""Folders that a verb cannot use are refused before it writes anything."""

import shutil

import pytest

from fairseq_scl.data.folders import DATA, ENCODER, MODEL
from helpers.encoders import make_sentences, toy_data, toy_encoder, toy_model
from helpers.outputs import contents, rows_of, write_outputs
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
def test_results_are_not_written_into_a_whole_folder(
    folders, refusal, toy, verb, to, kind
):
    target, table = folders / to, folders / "table.csv"
    encoder = ["--encoder", folders / "encoder", "--device", "cpu"]
    words = {
        "quickstart": [verb, "--to", target, "--device", "cpu"],
        "run": [*toy, "--results", target, "--device", "cpu"],
    }.get(verb, [verb, table, "--to", target, *encoder])
    kept = contents(folders)
    whole = folders / to.partition("/")[0]
    assert f"added to the {kind} {whole}: choose" in refusal(*words)
    assert contents(folders) == kept


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "model",
            "{} is not an encoder folder (model.pt, dict.txt), but a model folder",
        ),
        ("data", "{} is not an encoder folder (model.pt, dict.txt), but a data folder"),
        ("table.csv", "{} is not an encoder folder (model.pt, dict.txt), but a file"),
        ("empty", "{} is not an encoder folder (model.pt, dict.txt): create one"),
        ("a/b/c", "is '{}': there is no such folder"),
    ],
)
@pytest.mark.parametrize(
    "verb", ["compare", "download", "export", "noise", "prepare", "train"]
)
def test_an_encoder_is_an_encoder_folder(folders, refusal, verb, given, said):
    (folders / "empty").mkdir()
    table, to = folders / "table.csv", folders / "out"
    rows = rows_of(make_sentences(3))
    outputs = [write_outputs(folders / "T" / "n3-bt0.3.jsonl", rows)]
    words = {
        "download": [],
        "export": ["--checkpoint", folders / "a.pt", "--data", folders / "data"],
        "noise": outputs,
        "prepare": ["--table", table, "--columns", "text", "label"],
    }.get(verb, [table])
    words += ["--to", to] if verb != "download" else []
    kept = contents(folders)
    error = refusal(verb, *words, "--encoder", folders / given)
    assert f"--encoder {said.format(folders / given)}" in error
    assert contents(folders) == kept


@pytest.mark.parametrize(
    ("verb", "flag", "value"),
    [
        ("analyze", "--data", "{}"),
        ("backtranslate", "--sample", "{}"),
        ("compare", "--to", "{}"),
        ("evaluate", "--model", "{}"),
        ("predict", "--model", "{}"),
        ("prepare", "--text", "{}"),
        ("report", "--results", "{}"),
        ("run", "--data", "{}"),
        ("translation", "--from", "{}"),
        ("exits", "--model", "a={}"),
        ("figure", "--model", "20:a={}"),
    ],
)
def test_a_file_is_not_a_folder(tmp_path, refusal, verb, flag, value):
    path = tmp_path / "a file"
    path.write_text("mine")
    words = {
        "exits": ["--data", tmp_path, "--to", tmp_path / "a.png"],
        "figure": ["--data", tmp_path, "--to", tmp_path / "a.png"],
        "translation": ["clean"],
    }.get(verb, [])
    error = refusal(verb, *words, flag, value.format(path))
    name = value.removesuffix("={}") + ": " if "=" in value else ""
    assert error == (
        f"fairseq-scl: error: {flag} {name}{path} is a file: it must be a folder"
    )


def test_a_table_starts_from_encoders_and_models(folders, run, refusal, toy):
    for given, other in (("data", ", but a data folder"), ("a/b/c", "no such folder")):
        error = refusal(*toy, "--model", f"CE={folders / given}", "--dry-run")
        assert "--model" in error
        assert other in error
    assert run(*toy, "--model", f"CE={folders / 'model'}", "--dry-run")[0] == 0
