"""Files that were edited or cut: each is refused by file and field."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fairseq_scl.augment.translator import checkpoints_of
from fairseq_scl.cli.endings import sentence_of
from fairseq_scl.convert.encoder_weights import read_weights
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarize import (
    binarize,
    fairseq_flags,
    load_dictionary,
    read_labels,
    read_split_labels,
    rows_of,
)
from fairseq_scl.data.folders import verify
from fairseq_scl.data.outputs import BackTranslationRecord
from fairseq_scl.data.texts import read_split
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.geometry import MEASURES, TOP
from fairseq_scl.experiments.plan import _updates
from fairseq_scl.inference.encoder_folder import load_encoder
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.input_format import InputFormat, read_manifest
from fairseq_scl.report.html import _silhouettes
from fairseq_scl.report.noise_sheets import read_files, read_noise, write_noise
from fairseq_scl.report.representation_sheets import _before
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.rows import open_rows
from fairseq_scl.typed import as_type, read_as, read_json
from helpers import refusals
from helpers.damage import MISSING, edit
from helpers.encoders import make_sentences, toy_bert, toy_encoder, toy_model
from helpers.texts import write_split

NAMES = list(MEASURES)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "data"
    rows = make_sentences(24)
    binarize({"train": rows[:16], "valid": rows[16:]}, toy_encoder(), folder)
    return folder


@pytest.fixture
def data(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "it's data")


def refused(path, words, read, *arguments):
    """Require that reading is refused with the file and the words."""
    with refusals.refused(path, *words.split("; ")):
        read(*arguments)


MANIFEST_EDITS = [
    ("schema", 2, "schema is 2"),
    ("schema", MISSING, "schema is None"),
    ("pair", 1, "pair; found 1"),
    ("pair", None, "pair; None"),
    ("pair", MISSING, "pair"),
    ("pair_separator", "no", "pair_separator; 'no'"),
    ("examples", [16, 8], "examples; [16, 8]"),
    ("examples.train", -1, "examples; 'train': -1"),
    ("examples.train", True, "examples; 'train': True"),
    ("examples.train", 1e300, "examples; 'train': 1e+300"),
    ("unknown.train", 3, "unknown; 3"),
    ("kind", "model folder", "kind; 'model folder'; data folder"),
    ("sha256", {"dict.txt": "ab"}, "sha256; 'ab'"),
    ("sha256", None, "sha256; None"),
    ("more", 0, "more"),
]


@pytest.mark.parametrize(("place", "value", "words"), MANIFEST_EDITS)
def test_an_edited_manifest_is_refused(data, place, value, words):
    path = data / "manifest.json"
    edit(path, place, value)
    refused(path, words, read_manifest, data)
    refused(path, words, fairseq_flags, data)
    refused(path, words, _updates, data, 16, 3)
    if place == "sha256":
        refused(path, words, verify, data)


def test_a_manifest_without_training_examples_gives_no_epochs(data):
    edit(data / "manifest.json", "examples", {"test": 8})
    refused(data / "manifest.json", "train", _updates, data, 16, 3)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("labels", {}, "labels; {}"),
        ("labels", [], "labels; []"),
        ("labels", "ab", "labels; 'ab'"),
        ("labels", ["a", "b", "a"], "labels; ['a', 'b', 'a']; once"),
        ("labels.1", None, "labels[1]; None"),
        ("labels.0", "", "labels[0]; ''"),
        ("labels", MISSING, "labels"),
        ("names", [], "names"),
    ],
)
def test_edited_labels_are_refused(data, place, value, words):
    edit(data / "label_map.json", place, value)
    refused(data / "label_map.json", words, read_labels, data)


FORMAT = {
    "init_token": 0,
    "separator_token": None,
    "pair": False,
    "max_positions": 64,
    "head": "head",
    "labels": ["no", "yes"],
    "dictionary": "",
    "tokenizer": {"vocab.txt": "0" * 64},
    "white_space": "single",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init_token": "0"}, "init_token; '0'"),
        ({"separator_token": -1}, "separator_token; -1"),
        ({"max_positions": 0}, "max_positions; found 0"),
        ({"max_positions": True}, "max_positions; True"),
        ({"labels": ["no", 1]}, "labels[1]; found 1"),
        ({"tokenizer": {"vocab.txt": "0"}}, "tokenizer; '0'"),
        ({"white_space": "kept"}, "white_space; 'kept'; single"),
        ({"case": "lower"}, "case; init_token"),
    ],
)
def test_an_edited_record_of_how_text_is_read_is_refused(change, words):
    assert as_type(FORMAT, InputFormat, "model.pt").labels == ["no", "yes"]
    refused("model.pt", words, as_type, FORMAT | change, InputFormat, "model.pt")


def written(content):
    return lambda path: path.write_text(json.dumps({"schema": 1, **content}), "utf-8")


RECORD = {
    **{"settings": {"seed": 0}, "counts": {"outputs": 3}, "origins": {"empty": [2]}},
    **{"versions": {"torch": "2"}, "threads": 1},
}
SHEET = Sheet("noise", "Noise", ("task", "n"), (("SST-2", "3"),), (("", 1),))
MODEL = {"name": "x", "kind": "encoder", "features": "cls"}
MODEL["measures"] = dict.fromkeys(MEASURES, 0.5)
ANALYSIS = {"models": [MODEL], "split": "test", "top": TOP}
PANEL = {"row": "SST-2", "name": "CE", "silhouette": 0.25}
# Of each kind of file: how it is written and read, and what is found in it.
KINDS = {
    "outputs": (
        written(RECORD),
        lambda path: read_as(path, BackTranslationRecord).counts,
        {"outputs": 3},
    ),
    "noise": (
        lambda path: write_noise(path, [SHEET], "line"),
        read_noise,
        ([SHEET], "line"),
    ),
    "analysis": (
        written(ANALYSIS),
        partial(_before, pooling="cls"),
        {"x": MODEL["measures"]},
    ),
    "picture": (
        written({"panels": [PANEL]}),
        _silhouettes,
        "silhouette SST-2 CE 0.250",
    ),
}


@pytest.mark.parametrize(
    ("kind", "place", "value", "words"),
    [
        ("outputs", "schema", 2, "schema is 2"),
        ("outputs", "settings", None, "settings; None"),
        ("outputs", "counts", MISSING, "counts"),
        ("outputs", "counts.outputs", -1, "counts[...]; outputs"),
        ("outputs", "origins.empty.0", "2", "origins[...][0]; expected int"),
        ("noise", "schema", 3, "schema is 3"),
        ("noise", "sheets", None, "sheets; None"),
        ("noise", "sheets.0.rows.0.1", 3, "sheets[0].rows[0][1]; found 3"),
        ("noise", "sheets.0.rows.0", ["SST-2"], "noise"),
        ("noise", "sheets.0.header", MISSING, "sheets[0]; header"),
        ("noise", "sheets.0.groups.0.1", "1", "sheets[0].groups[0][1]; '1'"),
        ("noise", "signature", MISSING, "signature"),
        ("noise", "more", 1, "more; sheets, signature"),
        ("analysis", "models", {}, "models; {}"),
        ("analysis", "split", "valid", "has --split valid"),
        ("analysis", "models.0.name", 1, "models[0].name; found 1"),
        ("analysis", "models.0.kind", "data", "models[0].kind; 'data'; encoder, model"),
        ("analysis", "models.0.measures", MISSING, "models[0]; measures"),
        ("analysis", f"models.0.measures.{NAMES[0]}", "0.5", f"{NAMES[0]}; '0.5'"),
        ("analysis", f"models.0.measures.{NAMES[0]}", float("nan"), NAMES[0]),
        ("analysis", f"models.0.measures.{NAMES[-1]}", MISSING, f"{NAMES[-1]}"),
        ("picture", "panels", None, "panels; None"),
        ("picture", "panels.0.silhouette", True, "panels[0].silhouette; True"),
        ("picture", "panels.0.silhouette", float("inf"), "panels[0].silhouette"),
        ("picture", "panels.0.row", MISSING, "panels[0]; row"),
    ],
)
def test_an_edited_result_is_refused(tmp_path, kind, place, value, words):
    path = tmp_path / "a result.json"
    write, read, content = KINDS[kind]
    write(path)
    assert read(path) == content
    edit(path, place, value)
    refused(path, words, read, path)


def _cut(count):
    return lambda content: content[:count]


def _at(place, content):
    return lambda old: old[:place] + content + old[place + len(content) :]


@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        ("idx", _cut(0), "start"),
        ("idx", _cut(20), "20 bytes"),
        ("idx", _cut(-1), "217 bytes; 16 rows need; 218"),
        ("idx", lambda old: old + b"x", "219 bytes"),
        ("idx", _at(0, b"PK"), "start"),
        ("idx", _at(0, b"TNTIDX"), "--dataset-impl mmap"),  # the older format
        ("idx", _at(9, b"\2"), "version"),
        ("idx", _at(17, b"\7"), "dtype"),
        ("idx", _at(17, b"\xff"), "dtype"),
        ("idx", _at(18, b"\xff" * 8), "rows"),
        ("idx", _at(26, b"\xff" * 4), "consecutive"),
        ("idx", _at(90, b"\1"), "consecutive"),
        ("bin", _cut(0), "0 bytes"),
        ("bin", _cut(-2), "bytes; train.idx"),
        ("bin", lambda old: old + b"xx", "bytes; train.idx"),
    ],
)
def test_damaged_ids_are_refused(data, ending, change, words):
    path = data / "input0" / f"train.{ending}"
    assert len(rows_of(data, "input0", "train")) == 16
    path.write_bytes(change(path.read_bytes()))
    refused(path, words, rows_of, data, "input0", "train")


def test_ids_above_the_dictionary_are_refused(data):
    path = data / "input0" / "train.bin"
    symbols = len(load_dictionary(data / "input0" / "dict.txt"))
    assert len(open_rows(path.with_suffix(""), symbols)) == 16
    path.write_bytes(symbols.to_bytes(2, "little") + path.read_bytes()[2:])
    refused(path, str(symbols), open_rows, path.with_suffix(""), symbols)


FIRST = {"schema": 1, "pair": False, "pair_separator": False, "max_positions": 40}


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(toy_model(), tmp_path / "a model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"pair": 1}, "pair; found 1"),
        ({"pair_separator": None}, "pair_separator; None"),
        ({"max_positions": "40"}, "max_positions; '40'"),
        ({"schema": True}, "schema; True"),
        ({"schema": 3}, "schema; 3; 1, 2"),
        ({"schema": 2}, "input_format"),
        (
            {"schema": 2, "input_format": FORMAT, "exit_pooling": "max"},
            "'max'; cls, mean",
        ),
        (
            {"schema": 2, "input_format": FORMAT | {"pair": 0}},
            "input_format.pair; found 0",
        ),
    ],
)
def test_edited_settings_of_a_model_are_refused(model, change, words):
    path = model / "classifier.json"
    path.write_text(json.dumps(FIRST | change))
    if not words:
        assert load_classifier(model).max_positions == 40
        return
    refused(path, words, load_classifier, model)


@pytest.mark.parametrize(
    ("change", "symbols"), [(lambda w: w[:-1], 95), (lambda w: [*w, "zz 1"], 97)]
)
def test_a_dictionary_of_another_size_is_named(tmp_path, change, symbols):
    encoder = shutil.copytree(toy_encoder(), tmp_path / "encoder")
    words = (encoder / "dict.txt").read_text().splitlines()
    (encoder / "dict.txt").write_text("\n".join([*change(words), ""]))
    for read, *arguments in ((load_encoder,), (architecture_flags, 64)):
        wanted = f"{encoder / 'model.pt'} has 96 symbols; {symbols}"
        refused(encoder / "dict.txt", wanted, read, encoder, *arguments)


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_weights_that_end_early_are_named_as_damaged(model, share):
    path = model / "model.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "damaged", load_classifier, model)
    refused(path, "damaged", architecture_flags, model, 64)


@pytest.mark.parametrize("label", [0, 3, 6])
def test_ids_of_no_label_are_refused(data, label):
    path = data / "label" / "train.bin"
    path.write_bytes(label.to_bytes(2, "little") + path.read_bytes()[2:])
    refused(path, f"id {label}; example 1; 4 to 5", read_split_labels, data, "train")


def _convert(folder):
    convert_encoder(folder, folder / "converted")


OPTIONAL = {
    "tokenizer_config.json": _convert,
    "tokenizer.json": _convert,
    "manifest.json": read_manifest,
    "tokenizer_settings.json": load_tokenizer,
    "train.input1": lambda folder: read_split(folder, "train"),
}


@pytest.mark.parametrize("target", ["missing", "itself"])
@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_file_that_is_a_broken_link_is_refused(tmp_path, name, target):
    folder = shutil.copytree(toy_bert(), tmp_path / "folder")
    write_split(folder, "train", make_sentences(4))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(name if target == "itself" else target)
    with refusals.refused(str(folder / name)):
        OPTIONAL[name](folder)


def test_labels_of_a_model_folder_that_differ_from_its_dictionary_are_refused(tmp_path):
    folder = shutil.copytree(toy_model(), tmp_path / "model")
    (folder / "label" / "dict.txt").write_text("")
    with refusals.refused(str(folder / "label" / "dict.txt"), "label_map.json"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head", "other"),
        ("labels", ["negative", "positive", "third"]),
        *(("max_positions", 999), ("init_token", 999), ("separator_token", 999)),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(model, name, value):
    path = model / "classifier.json"
    edit(path, f"input_format.{name}", value)
    if name == "labels":
        edit(model / "label_map.json", "labels", value)
        (model / "label" / "dict.txt").write_text("".join(f"{n} 1\n" for n in value))
    with refusals.refused(path, f"{name} is {value!r}", "model.pt"):
        load_classifier(model)


@pytest.fixture
def folder_of_root():
    """Return a folder that others may list, to be read without the rights of root."""
    if os.geteuid() != 0:
        pytest.skip("root gives up its rights for a moment")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def as_nobody():
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.safetensors", read_weights),
        ("config.json", read_json),
        ("dict.txt", load_dictionary),
    ],
)
def test_a_file_that_the_user_may_not_read_is_named(folder_of_root, name, read):
    path = folder_of_root / name
    path.touch(mode=0)
    with (
        as_nobody(),
        pytest.raises(InputError, match=f"^cannot read {path}.*: Permission"),
    ):
        read(path)


@pytest.mark.parametrize(
    "find", [lambda at: checkpoints_of([at]), lambda at: read_files([at.parent])]
)
def test_a_folder_that_the_user_may_not_read_is_not_called_empty(folder_of_root, find):
    inner = folder_of_root / "inner"
    inner.mkdir(mode=0)
    with as_nobody(), pytest.raises(PermissionError) as raised:
        find(inner)
    assert sentence_of(raised.value) == f"cannot use {inner}: Permission denied"
