"""Pictures: learning curves, and ``fairseq-scl figure`` on the model's own inputs."""

import json
import math
from functools import partial

import numpy as np
import pytest
from msgspec.structs import replace

from fairseq_scl.cli import main
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarize import binarize, read_split_labels
from fairseq_scl.data.files import sha256
from fairseq_scl.data.texts import Example
from fairseq_scl.inference.data_split import read_split_tokens
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode
from fairseq_scl.report.figures import learning_curves, tsne_grid
from helpers.encoders import (
    make_bert,
    make_pairs,
    make_sentences,
    make_splits,
    toy_data,
    toy_encoder,
    toy_model,
)
from helpers.outputs import size_of_png
from helpers.results import make_record, make_table, runs_of


def test_learning_curves_are_a_picture_with_the_same_bytes_each_time(tmp_path):
    run = runs_of(make_table())[0]
    records = {"CE": [make_record(run, 150 + i, 300) for i in range(3)]}
    short = [replace(one, valid=one.valid[:1]) for one in records["CE"][:1]]
    pictures = []
    for of in (records, records, {"CE": records["CE"][:2]}, {"CE": short}):
        learning_curves(of, tmp_path / "curves.png")
        assert size_of_png(tmp_path / "curves.png") == (1200, 360)
        pictures.append((tmp_path / "curves.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(("pairs", "make"), [(0, make_sentences), (1, make_pairs)])
def test_binary_files_give_the_inputs_of_the_sentences(pairs, make):
    examples = make_splits(make)["test"]
    classifier = load_classifier(toy_model(bool(pairs)))
    data = toy_data(bool(pairs))
    expected, _ = encode(classifier, [example.sentences for example in examples])
    found = read_split_tokens(data, "test", classifier)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
    assert read_split_labels(data, "test") == [example.label for example in examples]


def test_pairs_are_joined_and_cut_as_for_prediction():
    classifier = load_classifier(toy_model(True))
    classifier.separator_token, classifier.max_positions = 2, 9
    examples = make_splits(make_pairs)["test"]
    expected, cut = encode(classifier, [example.sentences for example in examples])
    found = read_split_tokens(toy_data(True), "test", classifier)
    assert cut > 0
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]


@pytest.fixture
def argv(tmp_path):
    return [
        *["figure", "--data", str(toy_data()), "--device", "cpu"],
        *["--to", str(tmp_path / "out" / "figure2.png")],
    ]


def test_a_pair_of_models_side_by_side(argv, tmp_path, capfd):
    model = toy_model()
    argv += ["--model", f"CE={model}", "--model", f"CE+SCL={model}"]
    assert main(argv) == 0
    out = capfd.readouterr().out
    png, pdf, found = (
        tmp_path / "out" / f"figure2.{kind}" for kind in ("png", "pdf", "json")
    )
    assert size_of_png(png) == (1000, 480)
    assert pdf.read_bytes().startswith(b"%PDF")
    made = json.loads(found.read_text("utf-8"))
    assert [(panel["row"], panel["name"]) for panel in made["panels"]] == [
        ("", "CE"),
        ("", "CE+SCL"),
    ]
    score = made["panels"][0]["silhouette"]
    assert score == made["panels"][1]["silhouette"]
    assert f"silhouette of CE: {score:.3f}" in out
    assert made["panels"][0]["sha256"] == sha256(model / "model.pt")
    assert (made["split"], made["examples"], made["seed"]) == ("test", 8, 0)
    before = [path.read_bytes() for path in (png, pdf, found)]
    assert main(argv) == 0
    assert [path.read_bytes() for path in (png, pdf, found)] == before


def test_rows_make_a_grid(argv, tmp_path, capfd):
    for title in ("20:CE", "20:CE+SCL", "full:CE"):
        argv += ["--model", f"{title}={toy_model()}"]
    assert main([*argv, "--split", "valid"]) == 0
    assert size_of_png(tmp_path / "out" / "figure2.png") == (1000, 960)
    out = capfd.readouterr().out
    assert "silhouette of N = 20, CE+SCL: " in out
    assert "silhouette of full, CE: " in out


def test_panels_stand_for_their_own_features(tmp_path):
    random = np.random.default_rng(0)
    labels = ["a", "b"] * 10
    mixed = random.normal(size=(20, 4)).astype(np.float32)
    apart = np.tile(np.array([[9, 0, 0, 0], [-9, 0, 0, 0]], np.float32), (10, 1))
    apart = apart + mixed / 10
    features = {("20", "CE"): mixed, ("20", "SCL"): apart, ("100", "SCL"): apart}
    scores = tsne_grid(features, labels, [tmp_path / "x.png"])
    assert list(scores) == list(features)
    assert scores["20", "CE"] < 0.2
    assert scores["20", "SCL"] == scores["100", "SCL"] > 0.9
    tsne_grid(features, labels, [tmp_path / "y.png"], seed=1)
    assert (tmp_path / "x.png").read_bytes() != (tmp_path / "y.png").read_bytes()
    few = {("", "CE"): apart[:4]}
    assert math.isfinite(tsne_grid(few, labels[:4], [tmp_path / "x.png"])["", "CE"])
    assert size_of_png(tmp_path / "x.png") == (500, 480)


def test_every_class_is_drawn_however_many(tmp_path):
    features = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    labels = [f"class {number % 8}" for number in range(24)]
    few = ["class 0" if label == "class 7" else label for label in labels]
    for name, of in (("many.png", labels), ("few.png", few)):
        tsne_grid({("", "x"): features}, of, [tmp_path / name])
    many, fewer = ((tmp_path / n).read_bytes() for n in ("many.png", "few.png"))
    assert many != fewer


def test_bad_input_is_one_sentence(argv, tmp_path, refusal):
    model, refused = toy_model(), partial(refusal, *argv)
    good = ("--model", f"CE={model}")
    for title in ("CE", "CE=", f"20:={model}"):
        assert "it must be [ROW:]NAME=FOLDER" in refused("--model", title)
    for again in (good, ("--model", f":CE={model}")):
        assert "CE is given twice" in refused(*good, *again)
    assert "is not a model folder" in refused("--model", f"CE={tmp_path}")
    assert "has no train2 split" in refused(*good, "--split", "train2")
    assert "must end in .png" in refused(*good, "--to", "figure.jpg")
    assert "--perplexity is 0.5" in refused(*good, "--perplexity", "0.5")
    assert "--perplexity is nan" in refused(*good, "--perplexity", "nan")
    assert "--seed is -1" in refused(*good, "--seed", "-1")
    pairs = refused(*good, "--data", toy_data(True))
    assert "has pairs, but the model was trained on single sentences" in pairs
    assert "missing file" in refused(*good, "--data", tmp_path)
    assert not (tmp_path / "out").exists()


def test_one_class_and_another_vocabulary_are_refused(argv, tmp_path, refusal):
    splits = make_splits()
    splits["test"] = [Example(e.sentences, "negative") for e in splits["test"]]
    binarize(splits, toy_encoder(), tmp_path / "one class")
    refused = partial(refusal, *argv, "--model", f"CE={toy_model()}", "--data")
    assert "test has 8 examples of 1 classes" in refused(tmp_path / "one class")
    bert = make_bert(tmp_path / "bert", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    convert_encoder(bert, tmp_path / "encoder")
    other = tmp_path / "other"
    binarize(make_splits(), tmp_path / "encoder", other, max_unknown=1)
    assert "was prepared with another vocabulary" in refused(other)
