"""Temperature scaling: how it is fitted, stored and used; answers that are unsure."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from scipy.special import log_softmax, softmax

from fairseq_scl import Classifier
from fairseq_scl.data.binarize import read_examples
from fairseq_scl.data.folders import verify
from fairseq_scl.data.texts import Example
from fairseq_scl.inference.evaluation import example_logits
from fairseq_scl.inference.huggingface import export_huggingface
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.temperature import fit_temperature, store_temperature
from helpers.encoders import make_sentences, toy_data, toy_model
from helpers.outputs import contents
from helpers.refusals import refused
from helpers.tables import write_labeled

UNKNOWN = Example(("a text",), "other", "")
TEXTS = [e.sentences[0] for e in make_sentences(20, seed=5)]


@pytest.fixture
def model(tmp_path):
    """Return a copy of the toy model folder."""
    return shutil.copytree(toy_model(), tmp_path / "it's a model")


@pytest.fixture
def scaled(model):
    """Return a copy of the toy model folder with the temperature 2.5."""
    store_temperature(model, load_classifier(model), 2.5)
    return model


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    random = np.random.default_rng(0)
    logits = 3 * random.standard_normal((20_000, 3)).astype(np.float32)
    rows = softmax(logits / temperature, axis=1)
    truth = (rows.cumsum(axis=1) < random.random((len(rows), 1))).sum(axis=1)
    found = fit_temperature(logits, truth, "a.csv")
    assert found == pytest.approx(temperature, rel=0.05)

    def loss(t):
        return -log_softmax(logits / t, axis=1)[range(len(truth)), truth].mean()

    assert loss(found) < min(loss(found * 1.01), loss(found / 1.01))


def test_examples_that_do_not_determine_a_temperature_are_refused():
    logits = np.eye(2, dtype=np.float32)
    for truth in ([0, 1], [1, 0]):  # all right: as sure as can be; all wrong
        with refused("a.csv does not determine a temperature from 0.05 to 20"):
            fit_temperature(logits, np.array(truth), "a.csv")


def test_evaluate_fits_on_valid_stores_and_uses_it(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_scl.inference.temperature.LOWEST", 1e-4)
    arguments = ["--model", model, "--device", "cpu", toy_data()]
    report = tmp_path / "e.json"
    status, out, _ = run(
        *["evaluate", *arguments, "--temperature-scaling", toy_data(), "--to", report]
    )
    assert status == 0
    found = json.loads(report.read_text())
    loaded = load_classifier(model)
    logits, truth = example_logits(loaded, read_examples(toy_data(), "valid"), "")
    assert loaded.temperature == found["temperature"] != 1
    assert loaded.temperature == pytest.approx(fit_temperature(logits, truth, ""))
    assert f"temperature {loaded.temperature:.3f}, fitted on 8 examples" in out
    verify(model)
    plain = tmp_path / "plain.json"
    arguments[1] = toy_model()
    assert run("evaluate", *arguments, "--to", plain)[0] == 0
    before = json.loads(plain.read_text())
    assert before["confusion"] == found["confusion"]
    assert before["mean_probability"] != found["mean_probability"]
    logits, _ = example_logits(loaded, read_examples(toy_data(), "test"), "")
    rows = softmax(logits / loaded.temperature, axis=1)
    assert found["mean_probability"] == pytest.approx(rows.max(axis=1).mean())


def test_refused_examples_leave_the_model_as_it_was(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_scl.inference.temperature.LOWEST", 1e-4)
    before = contents(model)
    table = write_labeled(tmp_path / "a.csv", [*make_sentences(20), UNKNOWN])
    scale = ["--temperature-scaling", toy_data()]
    status, _, error = run("evaluate", "--model", model, table, *scale)
    assert (status, "the label 'other' does not occur" in error) == (2, True)
    assert contents(model) == before


def test_every_prediction_uses_the_temperature(run, scaled, tmp_path):
    model = load_classifier(toy_model())
    examples = make_sentences(20, seed=5)
    logits, _ = example_logits(model, examples, "")
    expected = softmax(logits / 2.5, axis=1)
    found = Classifier.load(scaled, device="cpu").predict_proba(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    argv = ["--model", scaled, "--device", "cpu", "--format", "json"]
    lines = run("predict", *argv, tmp_path / "a.txt")[1].splitlines()
    rows = [list(json.loads(line)["probabilities"].values()) for line in lines]
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    export_huggingface(scaled, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    auto = transformers.AutoModelForSequenceClassification
    theirs = auto.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
        rows = theirs(**batch).logits.softmax(1)
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_a_temperature_on_the_evaluated_examples_is_refused(refusal, model, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("text,label\na,positive\n")
    columns = ["--columns", "text", "label"]
    for argv in (
        [table, "--temperature-scaling", table, *columns],
        [toy_data(), "--temperature-scaling", toy_data(), "--split", "valid"],
    ):
        error = refusal("evaluate", "--model", model, "--device", "cpu", *argv)
        assert f"{argv[2]}, whose examples are also" in error
    assert load_classifier(model).temperature == 1


def test_models_that_cannot_store_a_temperature_are_refused(model):
    loaded = load_classifier(model)
    loaded.exits = {1: "a", 2: "b"}
    with refused(model, "has several exits"):
        store_temperature(model, loaded, 2.0)
    loaded.exits = {2: "b"}
    (model / "manifest.json").unlink()
    with refused(model, "was written by an earlier version"):
        store_temperature(model, loaded, 2.0)


def test_answers_below_the_threshold_are_unsure(run, tmp_path):
    classifier = Classifier.load(toy_model(), device="cpu")
    rows = classifier.predict_proba(TEXTS)
    threshold = float(np.median(rows.max(axis=1)))
    expected = [
        label if row.max() >= threshold else "unsure"
        for label, row in zip(classifier.predict(TEXTS), rows, strict=True)
    ]
    assert classifier.predict(TEXTS, threshold=threshold) == expected
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    argv = ["--model", toy_model(), "--device", "cpu", "--threshold", threshold]
    out = run("predict", *argv, tmp_path / "a.txt")[1]
    answers = [line.split("\t") for line in out.splitlines()]
    assert [label for label, _ in answers] == expected
    assert [float(p) for _, p in answers] == pytest.approx(rows.max(1), abs=1e-4)


def test_a_threshold_that_makes_no_sense_is_refused(refusal, model):
    argv = ["predict", "--model", model, "--device", "cpu", "/dev/null"]
    for value in ("0", "1.5", "nan", "-1"):
        assert "--threshold is " in refusal(*argv, f"--threshold={value}")
    classifier = Classifier.load(model, device="cpu")
    with refused("threshold is 2"):
        classifier.predict(TEXTS, threshold=2)
    classifier.labels = ("unsure", "sure")
    with refused("threshold answers 'unsure', which is also a label"):
        classifier.predict(TEXTS, threshold=0.5)
