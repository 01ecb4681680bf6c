"""A logistic regression as the head of a model folder."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fairseq_scl.data.binarize import binarize, read_split_labels
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.inference.data_split import read_split_tokens, split_features
from fairseq_scl.inference.model_folder import export_classifier, load_classifier
from fairseq_scl.inference.predict import probabilities
from fairseq_scl.inference.regression_head import PENALTY, regression_head
from helpers.encoders import make_sentences, toy_data, toy_encoder, toy_run


@pytest.mark.parametrize("pairs", [False, True], ids=["two classes", "three classes"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_model_computes_the_regression(tmp_path, pairs, pooling):
    run = toy_run(data=toy_data(pairs), head_pooling=pooling)
    run_training(run, tmp_path / "run")
    head, (right, total) = regression_head(tmp_path / "run" / BEST, run.data)
    export_classifier(tmp_path / "run" / BEST, run.data, tmp_path / "model", head=head)
    model = load_classifier(tmp_path / "model")
    features, labels, found = {}, {}, {}
    for split in ("train", "valid"):
        features[split] = split_features(model, run.data, split, tmp_path)
        labels[split] = np.array(read_split_labels(run.data, split))
        found[split] = probabilities(model, read_split_tokens(run.data, split, model))
    center = features["train"].mean(axis=0)
    spread = np.sqrt(((features["train"] - center) ** 2).mean())
    regression = LogisticRegression(C=PENALTY / len(center), max_iter=5000)
    scaled = {s: np.tanh((x - center) / spread) for s, x in features.items()}
    regression.fit(scaled["train"], labels["train"])
    order = [list(regression.classes_).index(label) for label in model.labels]
    wanted = regression.predict_proba(scaled["valid"])[:, order]
    np.testing.assert_allclose(found["valid"], wanted, atol=1e-4)
    answers = np.array(model.labels)[found["valid"].argmax(dim=1)]
    assert (right, total) == ((answers == labels["valid"]).sum(), len(answers))


def test_balanced_classes_answer_a_rare_class_more_often(tmp_path):
    few = [e for e in make_sentences(80) if e.label == "positive"][:6]
    many = [e for e in make_sentences(80) if e.label == "negative"]
    splits = dict.fromkeys(("train", "valid", "test"), few + many)
    binarize(splits, toy_encoder(), tmp_path / "data")
    run = toy_run(data=tmp_path / "data", updates=1, validations=1)
    run_training(run, tmp_path / "run")
    rare = {}
    for weights in (None, "balanced"):
        head, _ = regression_head(tmp_path / "run" / BEST, run.data, weights)
        bias = head["classification_heads.sentence_classification_head.out_proj.bias"]
        rare[weights] = float(bias[1] - bias[0])
    assert rare["balanced"] > rare[None] + 0.5
