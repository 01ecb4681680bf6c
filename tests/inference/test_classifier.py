"""The Python interface: answers, threads, refusals, and the code of its page."""

import copy
import json
import pickle
import re
import sys
import threading
import types
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
import torch

from fairseq_scl import Classifier
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, probabilities
from helpers import ROOT
from helpers.encoders import make_pairs, make_sentences, toy_model
from helpers.fresh import run_fresh
from helpers.refusals import refused

TEXTS = [e.sentences[0] for e in make_sentences(60, seed=5)]
PAIRS = [e.sentences for e in make_pairs(6, seed=5)]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
CODES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(str(toy_model()), device="cpu")


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_answers_are_those_of_the_command_line(pairs):
    ours = Classifier.load(toy_model(pairs), device="cpu")
    texts = PAIRS if pairs else TEXTS
    loaded = load_classifier(toy_model(pairs))
    examples = texts if pairs else [(text,) for text in texts]
    expected = probabilities(loaded, encode(loaded, examples)[0]).numpy()
    found = ours.predict_proba(texts)
    assert (found.dtype, found.shape) == (np.float32, (len(texts), len(ours.labels)))
    np.testing.assert_array_equal(found, expected)
    assert ours.predict(texts) == [ours.labels[i] for i in expected.argmax(1)]
    assert (ours.pair, ours.labels) == (pairs, tuple(loaded.labels))


def test_an_answer_does_not_depend_on_the_batch(classifier):
    together = classifier.predict_proba(TEXTS, max_tokens=50)
    alone = np.concatenate([classifier.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_threads_get_the_answers_of_one(classifier):
    """Each thread has texts of its own; the first calls are at the same time."""
    parts = [TEXTS[start::8] for start in range(8)] * 12
    expected = [classifier.predict_proba(part) for part in parts]
    shared = Classifier.load(toy_model(), device="cpu")  # has not predicted yet
    together = threading.Barrier(8)

    def predict(number):
        if number < 8:
            together.wait(60)
        return shared.predict_proba(parts[number])

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(predict, range(len(parts))))
    finally:
        sys.setswitchinterval(before)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a film", "texts is 'a film': it must be a list"),
        (["a film", 7], "texts[1] is 7: this model takes strings"),
        (["a film", None], "texts[1] is None"),
        ([("a", "film")], "texts[0] is ('a', 'film'): this model takes strings"),
        (["a film", " \t"], "texts[1] is empty"),
        (["a", "\ud800"], "texts[1] has an unpaired surrogate"),
        (b"a film", "texts is b'a film': it must be a list of texts"),
        (None, "texts is None: it must be a list of texts"),
        (5, "texts is 5: it must be a list of texts"),
        ({"text": "a film"}, "texts is a dict: it must be a list of texts"),
        ({"a film", "b"}, "texts is a set: it must be a list of texts"),
        (types.SimpleNamespace(), "texts is a SimpleNamespace: it must be a list of"),
        (np.array([["a", "b"]]), "texts is a ndarray: it must be a list of texts"),
    ],
)
def test_what_is_not_a_text_is_refused(classifier, texts, message):
    with refused(message):
        classifier.predict(texts)


@pytest.mark.parametrize("kind", [tuple, iter, np.array])
def test_texts_need_not_be_in_a_list(classifier, kind):
    texts = TEXTS[:3]
    assert classifier.predict(kind(texts)) == classifier.predict(texts)


def test_pairs_are_two_strings():
    classifier = Classifier.load(toy_model(pairs=True), device="cpu")
    for texts in (["a film"], [("a", "b", "c")], [("a", None)]):
        with refused("texts[0] is", "this model takes pairs of strings"):
            classifier.predict(texts)
    assert len(classifier.predict([["a film", ""]])) == 1  # a list; one may be empty


def test_a_warning_counts_texts_that_are_cut(classifier):
    texts = ["a film", "film " * classifier.max_positions]
    said = f"1 of 2 texts are longer than {classifier.max_positions} tokens"
    for method in (classifier.predict, classifier.predict_proba):
        with pytest.warns(UserWarning, match=said) as caught:
            method(texts)
        assert [warning.filename for warning in caught] == [__file__]


def test_no_texts_give_no_answers(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("max_tokens", value) for value in (0, "9", 2.5, None)),
        *(("threshold", value) for value in (0, "x", 1.5, float("nan"))),
    ],
)
def test_a_wrong_number_is_refused(classifier, setting, value):
    with refused(f"{setting} is {value!r}: it must be a"):
        classifier.predict(TEXTS, **{setting: value})


@pytest.mark.parametrize("folder", [None, 3, b"models/mine"])
def test_a_folder_is_a_path(folder):
    with refused(f"folder is {folder!r}: it must be a path"):
        Classifier.load(folder)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.deepcopy])
def test_a_classifier_is_not_pickled(classifier, duplicate):
    with pytest.raises(TypeError, match="a Classifier cannot be pickled or copied: "):
        duplicate(classifier)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "the device is 'gpu': allowed are cpu, cuda and cuda:N"),
        ({"precision": "half"}, "the precision is 'half': allowed are fp32, tf32"),
        ({"device": None}, "the device is 'None': allowed are cpu, cuda and cuda:N"),
        (
            {"device": "cpu", "precision": "bf16"},
            "the precision is 'bf16', which needs a GPU, but the device is 'cpu'",
        ),
    ],
)
def test_a_device_or_precision_that_does_not_exist_is_refused(arguments, message):
    with refused(message):
        Classifier.load(toy_model(), **arguments)


def test_output_that_is_not_a_number_is_refused(classifier, monkeypatch):
    monkeypatch.setattr(
        "fairseq_scl.inference.classifier.probabilities",
        lambda *_: torch.full((1, 2), float("nan")),
    )
    with refused(f"{toy_model()} computes an output that is NaN"):
        classifier.predict(["a film"])


def test_importing_and_loading_change_nothing_else_in_the_process():
    code = f"""if True:
        import logging, signal, sys, warnings
        def state():
            return (
                logging.root.level, list(logging.root.handlers),
                logging.root.manager.disable, list(warnings.filters), sys.argv[:],
                signal.getsignal(signal.SIGINT), sys.stdout, sys.stderr,
            )
        before = state()
        import fairseq_scl
        classifier = fairseq_scl.Classifier.load({str(toy_model())!r}, device="cpu")
        classifier.predict(["a film"])
        assert state() == before, state()
    """
    ended = run_fresh(code)  # PyTorch itself adds filters of warnings
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_code_of_the_page_runs(monkeypatch):
    space = {"texts": TEXTS, "labels": [0] * len(TEXTS)}
    fitted = []  # Trained for real in test_fitting.py.
    monkeypatch.setattr(Classifier, "fit", lambda *given: fitted.append(given))
    exec(CODES[0], space)
    assert fitted == [(TEXTS, [0] * len(TEXTS), "models/mine")]
    exec(CODES[1].replace("models/mine", str(toy_model())), space)
    assert set(space["labels"]) <= set(space["classifier"].labels)
    assert space["probabilities"].shape == (2, 2)


def test_the_web_service_of_the_page_answers_several_clients(classifier, monkeypatch):
    started = []
    monkeypatch.setattr(
        ThreadingHTTPServer, "serve_forever", lambda server: started.append(server)
    )
    code = CODES[2].replace("models/mine", str(toy_model())).replace("8000", "0")
    space = {}
    exec(code, space)
    monkeypatch.undo()
    (server,) = started
    space["Handler"].log_message = lambda *_: None
    serve = threading.Thread(target=server.serve_forever, args=(0.01,))
    serve.start()

    def ask(text):
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with urllib.request.urlopen(url, text.encode(), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    try:
        with ThreadPoolExecutor(4) as clients:
            found = list(clients.map(ask, [*TEXTS[:12], " "]))
    finally:
        server.shutdown()
        server.server_close()
        serve.join()
    status, answer = found.pop()
    assert (status, answer["error"].split(":")[0]) == (400, "texts[0] is empty")
    for (status, answer), row in zip(
        found, classifier.predict_proba(TEXTS[:12]), strict=True
    ):
        assert status == 200
        assert list(answer) == list(classifier.labels)
        assert list(answer.values()) == pytest.approx(row.tolist(), abs=1e-6)
