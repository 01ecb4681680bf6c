"""``Classifier.fit``: the command ``train`` from Python."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fairseq_scl import Classifier
from fairseq_scl.cli import train
from fairseq_scl.inference.arguments import SETTINGS
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


@pytest.fixture
def fast_python(fast_commands, monkeypatch):
    """Let ``fit`` start its command from a process that has PyTorch imported."""
    monkeypatch.setattr(sys, "executable", str(fast_commands / "fast-python"))


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
    assert printed == ""
    *bars, last = shown.split("\r")
    assert bars[0] == ""
    assert all("validation" in bar for bar in bars[1:])
    assert "5/5" in last  # of 10 updates
    assert "best accuracy=" in last
    assert last.count("\n") == 1


def test_notes_are_warnings_and_no_temporary_path_is_shown(capfd, fast_python):
    texts, labels = [*TEXTS, TEXTS[0], "a film"], [*LABELS, LABELS[0], "mixed"]
    with pytest.warns(UserWarning, match="repeat") as caught:
        Classifier.fit(
            texts, labels, progress=False, labels_are_classes=True, **settings()
        )
    notes = [str(w.message) for w in caught if w.filename == __file__]
    assert "1 rows of the examples repeat the text" in notes[0]
    assert "for example 'mixed' in texts[61]" in notes[1]
    assert "too few examples to measure 1 of 3 classes" in notes[2]
    assert capfd.readouterr() == ("", "")


def test_a_failed_training_is_explained_without_a_deleted_log(tmp_path, fast_python):
    wrong = settings() | {"learning_rate": 1e30, "progress": False}
    with pytest.raises(RuntimeError, match=r"^training failed: loss .* is nan"):
        Classifier.fit(TEXTS, LABELS, **wrong)
    folder = tmp_path / "mine"
    with pytest.raises(RuntimeError, match=r"^training failed: see .*: loss") as e:
        Classifier.fit(TEXTS, LABELS, folder, **wrong)
    log = str(e.value).split("see ")[1].split(": ")[0]
    assert Path(log).is_file()


def test_an_interrupt_of_this_process_ends_the_training(tmp_path):
    """As Jupyter does it; then the same folder can be used at once."""
    to, log = tmp_path / "mine", tmp_path / "mine-training/runs/ce-seed0/train.log"

    def interrupt():
        while not log.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell that starts the tests in the background lets them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            Classifier.fit(TEXTS, LABELS, to, **settings() | {"updates": 100_000})
    finally:
        signal.signal(signal.SIGINT, before)
    Classifier.fit(TEXTS, LABELS, to, **settings(), progress=False)


def test_what_the_command_refuses_is_told_in_terms_of_python(
    tmp_path, capfd, fast_python
):
    texts = [*TEXTS[:7], " ", *TEXTS[8:]]
    with refused("texts[7]: column text is empty") as error:
        Classifier.fit(texts, LABELS, tmp_path / "mine", **settings())
    assert "drop" not in str(error.value)  # which is not a setting
    with refused("argument objective: invalid choice: 'other'"):
        Classifier.fit(TEXTS, LABELS, objective="other")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("update", "; did you mean updates?"),  # abbreviations too
        ("learningrate", "; did you mean learning_rate?"),
        ("columns", "cache"),  # of the command, but there is no table
    ],
)
def test_a_setting_that_does_not_exist_is_refused(setting, hint):
    with refused(f"there is no setting {setting!r}: allowed are encoder, ") as error:
        Classifier.fit(TEXTS, LABELS, **{setting: 2})
    assert error.value.args[0].endswith(hint)


def test_settings_are_the_options_of_the_command():
    parser = argparse.ArgumentParser(add_help=False)
    train.add_arguments(parser)
    other = {"file", "to", "columns", "drop_empty"}
    assert {action.dest for action in parser._actions} - other == set(SETTINGS)


def test_a_target_is_a_path():
    with refused("to is 5: it must be a path"):
        Classifier.fit(TEXTS, LABELS, 5)


def test_pairs_and_integers_become_rows():
    pairs = [e.sentences for e in make_pairs(3)]
    rows = check_examples(pairs, [0, np.int64(1), 2])
    assert [row["label"] for row in rows] == ["0", "1", "2"]
    assert (rows[1]["sentence1"], rows[1]["sentence2"]) == pairs[1]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("a film", ["a"], "texts is 'a film': it must be a list"),
        (["a film"], "a", "labels is 'a': it must be a list of labels"),
        ({"text": "a"}, ["a"], "texts is a dict: it must be a list of texts"),
        (["a film"], None, "labels is None: it must be a list of labels"),
        (["a film"], np.array([["a"]]), "labels is a ndarray: it must be a list"),
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
