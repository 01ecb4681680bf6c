"""``Classifier.fit``: the command ``train`` from Python."""

import logging
import sys

import numpy as np
import pytest

from fairseq_scl import Classifier
from fairseq_scl.inference.fitting import check_examples
from helpers.encoders import make_pairs, make_sentences, toy_encoder
from helpers.refusals import refused

TEXTS = [e.sentences[0] for e in make_sentences(60)]
LABELS = [e.label for e in make_sentences(60)]


def settings():
    return {
        "encoder": toy_encoder(),
        "device": "cpu",
        "updates": 10,
        "learning_rate": 0.01,
        "batch_size": 8,
        "objective": "ce",
    }


def test_a_fitted_classifier_is_the_one_in_its_folder(tmp_path, capfd):
    handlers = list(logging.root.handlers)
    fitted = Classifier.fit(TEXTS, LABELS, tmp_path / "mine", **settings())
    assert list(logging.root.handlers) == handlers
    loaded = Classifier.load(tmp_path / "mine", device="cpu")
    assert loaded.labels == ("negative", "positive")
    np.testing.assert_array_equal(
        fitted.predict_proba(TEXTS), loaded.predict_proba(TEXTS)
    )
    printed, shown = capfd.readouterr()
    assert "48 texts for training, 12 for validation; 10 updates" in shown
    assert printed == ""


def test_what_the_command_refuses_is_told_in_terms_of_python(
    tmp_path, fast_commands, monkeypatch
):
    monkeypatch.setattr(sys, "executable", str(fast_commands / "fast-python"))
    texts = [*TEXTS[:7], " ", *TEXTS[8:]]
    with refused("texts[7]: column text is empty"):
        Classifier.fit(texts, LABELS, tmp_path / "mine", **settings())
    with refused("argument objective: invalid choice: 'other'"):
        Classifier.fit(TEXTS, LABELS, objective="other")


def test_pairs_and_integers_become_rows():
    pairs = [e.sentences for e in make_pairs(3)]
    rows = check_examples(pairs, [0, np.int64(1), 2])
    assert [row["label"] for row in rows] == ["0", "1", "2"]
    assert (rows[1]["sentence1"], rows[1]["sentence2"]) == pairs[1]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("a film", ["a"], "texts is 'a film': it must be a list"),
        (["a film"], "a", "labels is 'a': it must be a list"),
        (["a film"], [], "there are 1 texts but 0 labels"),
        (["a film", 7], ["a", "b"], "texts[1] is 7: it must be a string or a pair"),
        (["a film", ("a", "b")], ["a", "b"], "texts[1] is ('a', 'b'): mixed with"),
        (["a film"], [0.5], "labels[0] is 0.5: it must be a string or an integer"),
        (["a film"], [True], "labels[0] is True: it must be a string or an integer"),
    ],
)
def test_what_is_not_a_labeled_text_is_refused(texts, labels, message):
    with refused(message):
        Classifier.fit(texts, labels)
