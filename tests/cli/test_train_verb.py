"""``fairseq-scl train``: from a table of labeled texts to a model folder."""

import io
import shlex
import shutil
import subprocess

import pytest
from scipy.special import softmax

from fairseq_scl.cli import train
from fairseq_scl.data.binarize import read_examples
from fairseq_scl.experiments import own_training
from fairseq_scl.experiments.frozen import probed
from fairseq_scl.experiments.own_training import (
    OBJECTIVES,
    objective_point,
    recommended_learning_rate,
    recommended_updates,
)
from fairseq_scl.experiments.probe import Probe
from fairseq_scl.experiments.results_folder import read_record
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.inference.evaluation import example_logits
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.temperature import store_temperature
from helpers.encoders import make_pairs, make_sentences, toy_encoder, toy_model
from helpers.outputs import contents
from helpers.tables import write_labeled

QUICK = ["--updates", "30", "--learning-rate", "0.01", "--batch-size", "8"]


def line_of(printed, measure):
    """Return the line of a measure in a printed table."""
    return next(
        line for line in printed.splitlines() if line.startswith(f"| {measure}")
    )


@pytest.fixture
def words(tmp_path):
    """The arguments of a quick training on the CPU, without the file."""
    encoder = ["--encoder", toy_encoder(), "--device", "cpu"]
    return ["train", "--to", tmp_path / "a model", *encoder, *QUICK]


def test_a_table_becomes_a_model_folder_once(tmp_path, run, words, monkeypatch):
    path = write_labeled(tmp_path / "it's a table.csv", make_sentences(60))
    status, printed, error = run(*words, path)
    assert (status, error) == (0, "")
    assert "60 different texts from 'text', 2 classes from 'label'" in printed
    assert "48 texts for training, 12 for validation; 30 updates" in printed
    work = tmp_path / "a model-training"
    train_set, valid = (read_examples(work / "data", s) for s in ("train", "valid"))
    assert not {e.sentences for e in train_set} & {e.sentences for e in valid}
    record = read_record(work / "runs" / "scl-seed0")
    best = best_validation(record.valid)
    assert best.correct > 6  # it has learned
    assert f"{best.accuracy:.1f}% ({best.correct} right)" in printed
    classifier = load_classifier(tmp_path / "a model")
    assert classifier.labels == ["negative", "positive"]
    assert classifier.training.valid.correct == best.correct
    assert classifier.training.updates == 30
    assert classifier.training.checkpoint_update == best.update
    assert classifier.training.test is None

    monkeypatch.setattr(train, "sweep", lambda *_: None)  # nothing is left to train
    store_temperature(tmp_path / "a model", classifier, 2.5)
    again = run(*words, path)[1]
    logits, _ = example_logits(load_classifier(tmp_path / "a model"), valid, "")
    probability = softmax(logits / 2.5, axis=1).max(axis=1).mean()
    assert f"{probability:.1%}" in line_of(again, "mean probability")
    assert line_of(again, "mean probability") != line_of(printed, "mean probability")
    assert line_of(again, "accuracy") == line_of(printed, "accuracy")
    assert load_classifier(tmp_path / "a model").temperature == 2.5
    (tmp_path / "a model" / "model.pt").unlink()
    assert run(*words, path)[0] == 0
    assert load_classifier(tmp_path / "a model").temperature == 1
    kept = contents(tmp_path)
    for flag, value, named in (
        ("updates", "31", "updates"),
        ("seed", "1", "seed"),
        ("class-weights", "balanced", "class_weights"),
        ("objective", "ce", "objective or recipe"),
        ("recipe", "few-shot", "objective or recipe"),
    ):
        status, _, error = run(*words, path, f"--{flag}", value)
        assert status == 2
        assert f"scl-seed0 holds a run with other settings ({named})" in error
    other = write_labeled(path.with_name("other.csv"), make_sentences(70))
    status, _, error = run(*words, other)
    assert status == 2
    assert "scl-seed0 holds a run with other settings (data)" in error
    other.unlink()
    assert contents(tmp_path) == kept


def test_pairs_of_unequal_classes_are_trained(tmp_path, run, words, monkeypatch):
    every = make_pairs(60)
    rare = [e for e in every if e.label == "neutral"][:2]
    path = write_labeled(
        tmp_path / "pairs.jsonl", [e for e in every if e.label != "neutral"] + rare
    )
    balanced = ["--class-weights", "balanced"]
    status, printed, _ = run(*words, path, "--objective", "ce", *balanced)
    assert status == 0
    record = read_record(tmp_path / "a model-training" / "runs" / "ce-seed0")
    assert record.settings["options"]["class_weights"] == "balanced"
    assert "from 'sentence1' and 'sentence2', 3 classes" in printed
    example, _, command = printed.splitlines()[-1].partition(" | fairseq-scl ")
    content = subprocess.run(["bash", "-c", example], stdout=subprocess.PIPE).stdout
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, answer, _ = run(*shlex.split(command), "--device", "cpu")
    assert status == 0
    assert len(answer.splitlines()) == 1
    classifier = load_classifier(tmp_path / "a model")
    assert classifier.pair
    assert "neutral" in classifier.labels
    valid = read_examples(tmp_path / "a model-training" / "data", "valid")
    assert "neutral" not in {example.label for example in valid}


def test_the_few_shot_recipe_fits_the_head_after_training(
    tmp_path, run, words, monkeypatch
):
    path = write_labeled(tmp_path / "a.csv", make_sentences(60))
    recipe = [*words, path, "--recipe", "few-shot"]
    status, printed, error = run(*recipe)
    assert (status, error) == (0, "")
    assert "validation texts, which were not used to choose anything" in printed
    record = read_record(tmp_path / "a model-training" / "runs" / "few-shot-seed0")
    assert record.settings["scl_lambda"] == 1
    classifier = load_classifier(tmp_path / "a model")
    valid = classifier.training.valid
    assert f"({valid.correct} right)" in printed
    assert 6 < valid.correct <= valid.total == 12
    assert classifier.training.recipe == "few-shot"
    assert classifier.training.checkpoint_update == 30

    monkeypatch.setattr(train, "sweep", lambda *_: None)  # nothing is left to train
    store_temperature(tmp_path / "a model", classifier, 2.5)
    assert run(*recipe)[0] == 0
    assert load_classifier(tmp_path / "a model").temperature == 2.5
    (tmp_path / "a model" / "model.pt").unlink()
    assert run(*recipe)[:2] == (0, printed)
    assert load_classifier(tmp_path / "a model").training.valid == valid


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        ([], "try --recipe few-shot or more --updates"),
        (["--recipe", "few-shot"], "try more --updates"),
    ],
)
def test_a_model_behind_the_frozen_encoder_is_said(
    tmp_path, run, words, monkeypatch, more, advice
):
    path = write_labeled(tmp_path / "a.csv", make_sentences(60))
    _, printed, error = run(*words, path, *more)
    data, model = tmp_path / "a model-training" / "data", tmp_path / "a model"
    frozen = probed(toy_encoder(), data).valid_correct
    assert (
        f"before fine-tuning labels {100 * frozen / 12:.1f}% of the validation texts"
        in printed + error
    )
    behind = frozen > load_classifier(model).training.valid.correct
    assert ("more than the model" in error) == behind
    monkeypatch.setattr(train, "probed_before", lambda _: Probe(1.0, 13, 12, 13, 12))
    _, printed, error = run(*words, path, *more)
    assert error.endswith(f"more than the model: {advice}")
    monkeypatch.setattr(train, "MOST_PROBED", 47)
    assert "logistic regression" not in "".join(run(*words, path, *more)[1:])


def test_a_failed_training_is_reported_and_retried(tmp_path, run, words, monkeypatch):
    path = write_labeled(tmp_path / "a.csv", make_sentences(40))
    status, _, error = run(*words, path, "--learning-rate", "1e30")
    assert status == 1
    assert "training failed" in error
    assert not (tmp_path / "a model").exists()
    assert run(*words, path, "--learning-rate", "1e30")[0] == 1


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--learning-rate", "0"], "--learning-rate is 0"),
        (["--batch-size", "1"], "--batch-size is 1"),
        (["--updates", "0"], "--updates is 0"),
        (["--columns", "text", "text"], "'text' twice"),
        (["--columns", "text", "class"], "'class'"),
        (
            ["--recipe", "few-shot", "--objective", "ce"],
            "--recipe few-shot cannot be combined with --objective",
        ),
        (["--max-positions", "2"], "--max-positions is 2"),
        (
            ["--encoder", "nothing here"],
            "--encoder is 'nothing here': there is no such folder",
        ),
    ],
)
def test_a_wrong_option_is_named(tmp_path, refusal, words, more, named):
    path = write_labeled(tmp_path / "a.csv", make_sentences(40))
    assert named in refusal(*words, path, *more)
    assert not (tmp_path / "a model").exists()


def test_a_folder_of_something_else_is_kept(tmp_path, refusal, words):
    path = write_labeled(tmp_path / "a.csv", make_sentences(40))
    (tmp_path / "a model").mkdir()
    (tmp_path / "a model" / "notes.txt").write_text("mine", "utf-8")
    assert "a model is not replaced" in refusal(*words, path)


def test_a_model_that_it_did_not_train_is_kept(tmp_path, run, words):
    path = write_labeled(tmp_path / "a.csv", make_sentences(40))
    folder = tmp_path / "a model"
    said = f"error: {folder} is not replaced, because it was not trained in {folder}-t"
    shutil.copytree(toy_model(), folder)
    for earlier_training in (False, True):
        kept = contents(tmp_path)
        status, _, error = run(*words, path, "--updates", "2")
        assert (status, said in error) == (2, True)
        assert contents(tmp_path) == kept
        if not earlier_training:
            folder.rename(tmp_path / "kept")
            assert run(*words, path, "--updates", "2")[0] == 0
            shutil.rmtree(folder)
            (tmp_path / "kept").rename(folder)


@pytest.mark.parametrize("objective", [*OBJECTIVES, "few-shot"])
def test_an_objective_reads_what_the_head_reads(objective):
    for pooling in ("cls", "mean"):
        found = objective_point(objective, pooling, 2)
        read = {values for key, values in found.items() if key.endswith("_features")}
        assert read == {(pooling,)}
        assert (found["scl_lambda"][0] > 0) == (objective in ("scl", "few-shot", "acl"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_many_classes_start_from_a_fitted_head(
    objective, tmp_path, run, words, monkeypatch
):
    assert objective_point(objective, "mean", 10)["regression_head"] == ("before",)
    assert "regression_head" not in objective_point(objective, "mean", 9)
    monkeypatch.setattr(own_training, "MANY_CLASSES", 2)
    path = write_labeled(tmp_path / "a.csv", make_sentences(60))
    assert run(*words, path, "--objective", objective)[0] == 0
    record = read_record(tmp_path / "a model-training" / "runs" / f"{objective}-seed0")
    assert record.settings["regression_head"] == "before"
    assert len(record.valid) > 1


def test_settings_grow_with_the_table_and_shrink_with_the_encoder():
    assert [recommended_updates(n) for n in (16, 100, 1000)] == [60, 120, 379]
    assert recommended_learning_rate(toy_encoder()) == 1e-4
    assert recommended_learning_rate(toy_encoder(), "few-shot") == 2.5e-5
