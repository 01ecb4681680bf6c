"""``--class-weights balanced``: weights, loss and gradient, refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from helpers.gradients import OFF
from helpers.refusals import refused
from helpers.training import (
    USER_DIR,
    make_data,
    run_fast,
    toy_model,
    trained_checkpoint,
)

# Three classes, the last one rare.
SIZES = {"train": 40, "few": 30}
DATA = {"sizes": SIZES, "classes": 3, "weights": (6, 3, 1), "words": None}


@pytest.fixture(scope="module")
def toy(data):
    built = toy_model([data, "--num-classes", "3", *OFF])
    built.model.train()
    return built


def test_weights_are_those_of_scikit_learn(toy):
    toy.task.load_dataset("train")
    labels = [int(toy.task.dataset("train")[n]["target"]) for n in range(40)]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = toy.with_settings(class_weights="balanced").class_weights
    assert len(set(found.tolist())) == 3
    torch.testing.assert_close(found.double(), torch.tensor(expected))


@pytest.mark.parametrize("scl_lambda", [0, 0.9])
def test_only_cross_entropy_in_training_is_weighted(toy, scl_lambda):
    batch = toy.batch()
    weighted = toy.with_settings(scl_lambda=scl_lambda, class_weights="balanced")
    plain = toy.with_settings(scl_lambda=scl_lambda)
    logits = toy.model(
        **batch["net_input"],
        features_only=True,
        classification_head_name="sentence_classification_head",
    )[0]
    labels = batch["target"].view(-1)
    each = F.cross_entropy(logits, labels, reduction="none")
    ce = (each * weighted.class_weights[labels]).sum()
    loss, size, log = weighted(toy.model, batch)
    expected = plain(toy.model, batch)
    assert size == expected[1]
    torch.testing.assert_close(log["ce_loss"], ce.data)
    torch.testing.assert_close(log["scl_loss"], expected[2]["scl_loss"])
    torch.testing.assert_close(loss, expected[0] + (1 - scl_lambda) * (ce - each.sum()))
    torch.testing.assert_close(log["loss"], loss.data)
    toy.model.eval()
    try:
        assert weighted(toy.model, batch)[0] == plain(toy.model, batch)[0]
    finally:
        toy.model.train()


def test_weights_are_those_of_the_training_set(data):
    built = toy_model([data, "--num-classes", "3", "--train-subset", "few"])
    built.task.load_dataset("few")
    labels = [int(built.task.dataset("few")[n]["target"]) for n in range(30)]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = built.with_settings(class_weights="balanced").class_weights
    torch.testing.assert_close(found.double(), torch.tensor(expected))


def test_validation_needs_no_weights_and_no_training_set(data, tmp_path):
    flags = ["--num-classes", "3", "--train-subset", "few", "--valid-subset", "few"]
    checkpoint = trained_checkpoint(
        data, tmp_path, *flags, "--class-weights", "balanced", "--max-update", "1"
    )
    other = make_data(tmp_path / "bin", {"test": 8}, classes=3)
    words = ["--path", checkpoint, "--valid-subset", "test", "--batch-size", "4"]
    words += ["--task", "sentence_prediction_scl", "--num-classes", "3"]
    words += ["--criterion", "sentence_prediction_scl", "--user-dir", USER_DIR]
    done = run_fast("fairseq_cli.validate", list(map(str, [other, *words, "--cpu"])))
    assert done.returncode == 0, done.stderr
    assert "n_total 8" in done.stdout


def test_what_cannot_be_weighted_is_refused(toy, monkeypatch):
    with refused("--class-weights is 'equal': it must be one of none, balanced"):
        toy.with_settings(class_weights="equal")
    with refused("--class-weights cannot be combined with --scl-views"):
        toy.with_settings(class_weights="balanced", scl_views=True)
    names = [*toy.task.label_dictionary.symbols, "another"]
    monkeypatch.setattr(toy.task.label_dictionary, "symbols", names)
    monkeypatch.setattr(toy.task.cfg, "num_classes", 4)
    with refused("--class-weights is 'balanced', but", "no example of 'another'"):
        _ = toy.with_settings(class_weights="balanced").class_weights
