"""A logistic regression as the head of a fine-tuned model."""

import shutil

import numpy as np
import pytest
from fairseq.models.roberta import RobertaClassificationHead
from sklearn.linear_model import LogisticRegression

from fairseq_scl.data.binarize import binarize, read_split_labels
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import frozen
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.inference.data_split import read_split_tokens, split_features
from fairseq_scl.inference.model_folder import export_classifier, load_classifier
from fairseq_scl.inference.predict import probabilities
from fairseq_scl.inference.regression_head import PENALTY, fit_head
from helpers.encoders import make_sentences, toy_data, toy_encoder, toy_run
from helpers.views import add_views


@pytest.mark.parametrize("pairs", [False, True], ids=["two classes", "three classes"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(
    "settings",
    [
        {"regression_head": "after"},
        {"regression_head": "before", "updates": 1, "learning_rate": 1e-9},
    ],
    ids=["after", "before"],
)
def test_the_model_computes_the_regression(tmp_path, pairs, pooling, settings):
    run = toy_run(
        data=toy_data(pairs),
        head_pooling=pooling,
        scl_lambda=1.0,
        validations=1,
        **settings,
    )
    record = run_training(run, tmp_path / "run")
    checkpoint = tmp_path / "run" / BEST
    remarks = export_classifier(checkpoint, run.data, tmp_path / "model")
    assert not any("random" in remark for remark in remarks)
    model = load_classifier(tmp_path / "model")
    features, labels, found = {}, {}, {}
    for split in ("train", "valid", "test"):
        features[split] = split_features(model, run.data, split, tmp_path)
        labels[split] = np.array(read_split_labels(run.data, split))
        found[split] = probabilities(model, read_split_tokens(run.data, split, model))
    center = features["train"].mean(axis=0)
    spread = np.sqrt(((features["train"] - center) ** 2).mean())
    regression = LogisticRegression(C=PENALTY / len(center), max_iter=5000)
    scaled = {s: np.tanh((x - center) / spread) for s, x in features.items()}
    regression.fit(scaled["train"], labels["train"])
    order = [list(regression.classes_).index(label) for label in model.labels]
    for split, results in (("valid", record.valid), ("test", record.test)):
        wanted = regression.predict_proba(scaled[split])[:, order]
        np.testing.assert_allclose(found[split], wanted, atol=1e-4)
        right = np.array(model.labels)[found[split].argmax(dim=1)] == labels[split]
        assert [(one.correct, one.total) for one in results] == [
            (right.sum(), len(right))
        ]


def test_balanced_classes_answer_a_rare_class_more_often():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 8)).astype(np.float32)
    labels = [1] * 6 + [0] * 54
    rare = {}
    for weights in (None, "balanced"):
        head = RobertaClassificationHead(8, 8, 2, "tanh", 0.0)
        fit_head(head, features, labels, weights)
        rare[weights] = head.out_proj.bias.diff().item()
    assert rare["balanced"] > rare[None] + 0.5


@pytest.mark.parametrize("weights", ["balanced", "none"])
def test_class_weights_of_the_loss_are_those_of_the_regression(
    tmp_path, monkeypatch, weights
):
    few = [e for e in make_sentences(80) if e.label == "positive"][:6]
    many = [e for e in make_sentences(80) if e.label == "negative"]
    splits = dict.fromkeys(("train", "valid", "test"), few + many)
    binarize(splits, toy_encoder(), tmp_path / "data")
    run = toy_run(data=tmp_path / "data", updates=1, regression_head="after")
    run.loss["class_weights"] = weights
    seen = []
    monkeypatch.setattr(frozen, "fit_head", lambda *given: seen.append(given[3]))
    run_training(run, tmp_path / "run")
    assert seen == ["balanced" if weights == "balanced" else None]


def test_views_are_not_training_examples(tmp_path):
    shutil.copytree(toy_data(), tmp_path / "data")
    add_views(tmp_path / "data")
    run = toy_run(data=tmp_path / "data", updates=2, regression_head="before")
    run.loss["scl_views"] = True
    assert run_training(run, tmp_path / "run").settings["options"]["scl_views"]


def test_every_label_needs_a_training_example(tmp_path, monkeypatch):
    """Labels of a folder from ``fairseq-preprocess`` need not occur in training."""
    monkeypatch.setattr(frozen, "read_labels", lambda _: ["negative", "positive", "?"])
    run = toy_run(updates=1, regression_head="after")
    with pytest.raises(InputError, match="label '\\?' has no training example"):
        run_training(run, tmp_path / "run")
