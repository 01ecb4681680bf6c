"""``fairseq-scl compare``: objectives on repeated samples of one table."""

import numpy as np
import pytest

from fairseq_scl.cli import compare
from fairseq_scl.data.binarize import read_examples
from fairseq_scl.data.texts import Example
from fairseq_scl.experiments import frozen
from fairseq_scl.experiments.own_comparison import divide
from fairseq_scl.experiments.probe import linear_probe
from fairseq_scl.experiments.records import Validation
from fairseq_scl.experiments.results_folder import read_record
from fairseq_scl.experiments.selection import Outcome
from fairseq_scl.inference.data_split import read_split_tokens
from fairseq_scl.inference.encoder_folder import load_encoder
from fairseq_scl.inference.predict import features
from fairseq_scl.report.own_comparison import conclusion, own_sheets
from helpers.encoders import make_sentences, toy_encoder
from helpers.outputs import contents
from helpers.refusals import refused
from helpers.tables import write_labeled

RESULTS = ("table.md", "report.html")


def outcomes_of(*accuracies):
    return [
        Outcome(seed, Validation(1, 50, 100, 0.5), Validation(1, correct, 100, 0.5))
        for seed, correct in enumerate(accuracies)
    ]


def test_methods_are_compared_on_the_same_samples(tmp_path, run, monkeypatch):
    path = write_labeled(tmp_path / "it's a table.csv", make_sentences(60))
    words = ["compare", path, "--to", tmp_path / "a folder", "--samples", "2"]
    words += ["--encoder", toy_encoder(), "--device", "cpu", "--updates", "8"]
    words += ["--learning-rate", "0.01", "--batch-size", "8"]
    status, printed, error = run(*words)
    assert (status, error) == (0, "")
    assert "18 texts for test, 12 for validation; 2 samples of 24 of the other 30" in (
        printed
    )
    for name in RESULTS:
        assert (tmp_path / "a folder" / name).is_file()
    data = tmp_path / "a folder" / "data" / "own"
    folders = [data / f"n24-sample{number}" for number in (0, 1)]
    train = [{e.sentences for e in read_examples(f, "train")} for f in folders]
    held_out = [
        {e.sentences for split in ("valid", "test") for e in read_examples(f, split)}
        for f in folders
    ]
    assert held_out[0] == held_out[1]
    assert not (train[0] | train[1]) & held_out[0]
    assert train[0] != train[1]
    last = printed.splitlines()[-1]
    assert last.startswith("On 2 samples of 24 texts, CE+SCL is ")
    assert "and logistic regression is " in last

    kept = contents(tmp_path)
    for more, changed in (("--seed", "data"), ("--size", "sizes")):
        status, _, error = run(*words, more, "16")
        assert status == 2
        assert f"other settings ({changed}" in error
    assert contents(tmp_path) == kept

    monkeypatch.setattr(compare, "train_table", lambda *_, **__: 0)  # all is done
    status, again, _ = run(*words)
    assert (status, again.splitlines()[-1]) == (0, last)


def test_the_recipe_is_compared_at_its_own_learning_rate(tmp_path, run):
    path = write_labeled(tmp_path / "a.csv", make_sentences(60))
    words = ["compare", path, "--to", tmp_path / "out", "--samples", "2"]
    words += ["--encoder", toy_encoder(), "--device", "cpu", "--updates", "2"]
    words += ["--objectives", "scl", "few-shot"]
    status, printed, error = run(*words)
    assert (status, error) == (0, "")
    assert "few-shot is " in printed.splitlines()[-1]
    found = {}
    for path in (tmp_path / "out" / "runs").iterdir():
        one = read_record(path).settings
        kept = (one["learning_rate"], one["regression_head"], one["validations"])
        found[one["cell"]["loss"], one["scl_lambda"]] = kept
    assert found == {
        ("CE+SCL", 0.9): (1e-4, None, 2),
        ("few-shot", 1): (2.5e-5, "after", 1),
    }


def test_the_logistic_regression_follows_the_settings(tmp_path, run, monkeypatch):
    """It reads what the heads of the other methods read, and weights classes alike."""
    asked = []

    def fit(features, labels, class_weights=None):
        asked.append((features["train"], class_weights))
        return linear_probe(features, labels, class_weights)

    monkeypatch.setattr(frozen, "linear_probe", fit)
    path = write_labeled(tmp_path / "a.csv", make_sentences(60))
    words = ["compare", path, "--samples", "2", "--updates", "1", "--objectives", "ce"]
    words += ["--encoder", toy_encoder(), "--device", "cpu"]
    settings = ["--pooling", "mean", "--max-positions", "4"]
    settings += ["--class-weights", "balanced"]
    assert run(*words, *settings, "--to", tmp_path / "out")[0] == 0
    encoder = load_encoder(toy_encoder())
    encoder.max_positions = 4
    for number, (found, class_weights) in enumerate(asked):
        data = tmp_path / "out" / "data" / "own" / f"n24-sample{number}"
        tokens = read_split_tokens(data, "train", encoder)
        assert max(map(len, tokens)) == 4
        expected = features(encoder, tokens, "mean").numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert class_weights == "balanced"
    assert len(asked) == 2


def test_the_sentence_says_what_both_intervals_support():
    outcomes = {
        "CE": outcomes_of(70, 71, 72),
        "better": outcomes_of(74, 76, 78),
        "worse": outcomes_of(59, 61, 63),
        "open": outcomes_of(60, 71, 82),
    }
    found = conclusion(outcomes, 80, {"CE": 0, "worse": 0})
    first = "better is better than CE (+5.00 points, +2.52 to +7.48), and "
    assert found.startswith(f"On 3 samples of 80 texts, {first}")
    assert "worse is worse than CE (-10.00 points" in found
    assert "open is not clearly different from CE (+0.00 points" in found
    assert "Caution" not in found
    found = conclusion(outcomes, 80, {"CE": 0, "worse": 3, "open": 1})
    assert "Caution: 3 of 3 runs of worse, 1 of 3 runs of open did no better" in found
    accuracies, differences = own_sheets(outcomes)
    assert accuracies.rows[0] == ("CE", "70.0", "71.0", "72.0", "71.0 ± 1.0")
    assert [row[0] for row in differences.rows] == ["better", "worse", "open"]
    one = conclusion({"CE": outcomes_of(70), "other": outcomes_of(80)}, 80, {})
    assert one.startswith("One sample of 80 texts does not show")


@pytest.mark.parametrize(("size", "words"), [(0, "--size is 0"), (11, "1 to 10")])
def test_a_size_that_does_not_fit_is_refused(size, words):
    examples = [Example((str(n),), str(n % 2)) for n in range(20)]
    with refused(words):
        divide(examples, size, 0)


@pytest.mark.parametrize(
    ("rare", "size", "words"),
    [
        (1, None, "'rare' has 1 of 41 texts"),
        (2, None, "'rare' has 2 of 42 texts"),
        (3, 5, "--size is 5: a sample of 5 examples has none of the class 'rare'"),
    ],
)
def test_a_class_that_is_too_rare_is_named(rare, size, words):
    labels = [*("yes", "no") * 20, *["rare"] * rare]
    with refused(words):
        divide([Example((str(n),), x) for n, x in enumerate(labels)], size, 0)


def test_a_refusal_names_the_table(tmp_path, run):
    examples = [*make_sentences(40), Example(("one more",), "rare")]
    path = write_labeled(tmp_path / "a.csv", examples)
    words = ["--to", tmp_path / "out", "--encoder", toy_encoder(), "--device", "cpu"]
    status, _, error = run("compare", path, *words)
    assert status == 2
    assert str(path) in error
    assert "'rare'" in error
