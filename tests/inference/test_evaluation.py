"""``fairseq-scl evaluate`` and the measures below it."""

import json
import math
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from fairseq_scl.data.texts import Example
from fairseq_scl.experiments.statistics import result_at_best
from fairseq_scl.inference import evaluation
from fairseq_scl.inference.evaluation import MISTAKES, evaluate
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, probabilities
from fairseq_scl.report.evaluation import draw_confusion, evaluation_sheets
from fairseq_scl.report.figures import save_figure
from helpers.encoders import make_pairs, make_sentences, toy_data, toy_model, trained
from helpers.tables import write_labeled

LABELS = ("a", "b/c d", "$x_1$", "\u4f60")


def drawn(total, classes, seed=0):
    """Return random probabilities, labels and examples."""
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.ones(classes), total).astype(np.float32)
    truth = random.integers(classes, size=total)
    labels = [LABELS[n] if n < len(LABELS) else f"class {n}" for n in range(classes)]
    examples = [
        Example((f"text {i}",), labels[n], f"f.csv, line {i + 2}")
        for i, n in enumerate(truth)
    ]
    return rows, truth, labels, examples


def share(part, whole):
    return part / whole if whole else None


@pytest.mark.parametrize(("total", "classes"), [(1, 2), (3, 4), (200, 2), (300, 5)])
def test_measures_are_those_of_their_definitions(total, classes):
    rows, truth, labels, examples = drawn(total, classes)
    found = evaluate(rows, truth, labels, examples)
    answers = [max(range(classes), key=row.__getitem__) for row in rows.tolist()]
    pairs = Counter(zip(truth.tolist(), answers, strict=True))
    right = sum(pairs[n, n] for n in range(classes))
    assert (found.examples, found.correct) == (total, right)

    p, z = right / total, 1.959964
    center, half = (
        p + z * z / (2 * total),
        z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2),
    )
    assert found.accuracy_interval == pytest.approx(
        [(center + s * half) / (1 + z * z / total) for s in (-1, 1)], abs=1e-5
    )
    f1s = []
    for n, one in enumerate(found.classes):
        examples_of = sum(pairs[n, j] for j in range(classes))
        answers_of = sum(pairs[i, n] for i in range(classes))
        assert (one.label, one.examples, one.answers) == (
            *(labels[n], examples_of, answers_of),
        )
        f1 = share(2 * pairs[n, n], examples_of + answers_of)
        assert (one.precision, one.recall, one.f1) == (
            pytest.approx(share(pairs[n, n], answers_of)),
            pytest.approx(share(pairs[n, n], examples_of)),
            pytest.approx(f1),
        )
        f1s += [] if f1 is None else [f1]
        assert found.confusion[n] == tuple(pairs[n, j] for j in range(classes))
    assert found.macro_f1 == pytest.approx(sum(f1s) / len(f1s))

    error = 0.0
    for number in range(evaluation.BINS):
        low, high = number / evaluation.BINS, (number + 1) / evaluation.BINS
        inside = [i for i, row in enumerate(rows) if low <= max(row) < high]
        hits = sum(answers[i] == truth[i] for i in inside)
        error += abs(hits - sum(float(max(rows[i])) for i in inside)) / total
    assert found.calibration_error == pytest.approx(error, abs=1e-6)
    for one in found.answered:
        kept = [i for i, row in enumerate(rows) if max(row) >= one.threshold]
        assert one.answered == len(kept)
        assert one.correct == sum(answers[i] == truth[i] for i in kept)


def test_the_correlation_of_two_classes_is_matthews():
    rows, truth, labels, examples = drawn(200, 2)
    (tn, fp), (fn, tp) = evaluate(rows, truth, labels, examples).confusion
    whole = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found = evaluate(rows, truth, labels, examples).mcc
    assert found == pytest.approx((tp * tn - fp * fn) / whole)


def test_the_most_confident_mistakes_come_first():
    rows, truth, labels, examples = drawn(200, 3)
    found = evaluate(rows, truth, labels, examples).mistakes
    assert len(found) == MISTAKES
    wrong = [i for i, row in enumerate(rows) if row.argmax() != truth[i]]
    wrong.sort(key=lambda i: -rows[i].max())
    assert [one.origin for one in found] == [
        examples[i].origin for i in wrong[:MISTAKES]
    ]
    assert all(one.label != one.answer for one in found)


def test_a_perfect_classifier():
    rows = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    examples = drawn(4, 3)[3]
    found = evaluate(rows, np.array([0, 1, 2, 2]), "abc", examples)
    assert (found.accuracy, found.macro_f1, found.mcc) == (1, 1, 1)
    assert (found.calibration_error, found.mistakes) == (0, ())
    assert found.warnings() == []


@pytest.mark.parametrize("classes", [4, 30])
def test_sheets_and_figure_of_many_classes_and_odd_labels(tmp_path, classes):
    rows, truth, labels, examples = drawn(400, classes)
    found = evaluate(rows, truth, labels, examples)
    sheets = {sheet.name: sheet for sheet in evaluation_sheets(found)}
    assert len(sheets["classes"].rows) == classes
    confusion = sheets["confusion"]
    assert (confusion.header[1:] == tuple(labels)) == (classes == 4)
    assert all(len(row) == len(confusion.header) for row in confusion.rows)
    if classes > 4:
        counts = [int(row[2]) for row in confusion.rows]
        assert counts == sorted(counts, reverse=True)
        assert all(row[0] != row[1] for row in confusion.rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(draw_confusion(found), tmp_path / "a.png")


@pytest.fixture
def evaluated(run, tmp_path):
    """Evaluate the toy model; return status, output, error and the JSON file."""

    def call(*argv, model=None):
        arguments = ["--model", model or toy_model(), "--device", "cpu"]
        done = run("evaluate", *arguments, *argv, "--to", tmp_path / "out" / "e.json")
        file = tmp_path / "out" / "e.json"
        return *done, json.loads(file.read_text()) if file.is_file() else None

    return call


def test_a_data_folder_has_the_result_of_the_training(evaluated, tmp_path):
    status, out, _, found = evaluated(toy_data())
    recorded = result_at_best(trained()[2])
    assert status == 0
    assert (found["correct"], found["examples"]) == (recorded.correct, recorded.total)
    for name in ("e.json", "e.md", "e.html", "e.png"):
        assert f"wrote {tmp_path / 'out' / name}" in out
    text = (tmp_path / "out" / "e.md").read_text("utf-8")
    assert text in out
    assert "| positive | 4 |" in text
    page = (tmp_path / "out" / "e.html").read_text("utf-8")
    assert page.count("<table") == text.count("\n| ---")
    assert "data:image/png;base64," in page
    assert "|split:test|" in text
    _, out, _, found = evaluated(toy_data(), "--split", "valid")
    assert (found["examples"], found["split"]) == (8, "valid")
    assert "|split:valid|" in out


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables_are_answered_as_predict_does(evaluated, tmp_path, suffix, pairs):
    made = make_pairs(12, seed=9) if pairs else make_sentences(20, seed=9)
    file = write_labeled(tmp_path / f"it's a table.{suffix}", made)
    columns = ["sentence1", "sentence2", "label"] if pairs else ["text", "label"]
    status, _, _, found = evaluated(file, "--columns", *columns, model=toy_model(pairs))
    assert status == 0
    if not pairs:  # by their usual names
        _, out, _, again = evaluated(file)
        assert again["confusion"] == found["confusion"]
        assert again["columns"] == "text label"
        assert "|columns:text label|" in out
    model = load_classifier(toy_model(pairs))
    expected = probabilities(model, encode(model, [e.sentences for e in made])[0])
    answers = [model.labels[i] for i in expected.argmax(1)]
    wrong = [e for e, a in zip(made, answers, strict=True) if e.label != a]
    assert found["correct"] == len(made) - len(wrong)
    assert found["mean_probability"] == pytest.approx(float(expected.amax(1).mean()))
    assert {tuple(m["sentences"]) for m in found["mistakes"]} == {
        e.sentences for e in wrong
    }
    assert all(f"{file}, line " in m["origin"] for m in found["mistakes"])


def test_answers_or_labels_that_are_all_the_same_are_warned_of(evaluated, tmp_path):
    classifier = load_classifier(toy_model())
    same = [e for e in make_sentences(60, seed=4) if e.label == "positive"]
    rows = probabilities(classifier, encode(classifier, [e.sentences for e in same])[0])
    answers = [classifier.labels[row.argmax()] for row in rows]
    chosen = [e for e, a in zip(same, answers, strict=True) if a == "positive"]
    file = write_labeled(tmp_path / "a.csv", chosen)
    status, out, error, found = evaluated(file, "--columns", "text", "label")
    assert (status, found["accuracy"], found["mcc"]) == (0, 1, 0)
    warned = f"all {len(chosen)} examples"
    assert f"predicts 'positive' for {warned}" in out
    assert f"{warned} have the label 'positive'" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,positive\nb,neutral\n", "line 3: the label 'neutral' does not"),
        ("text,label\na,positive\n,negative\n", "line 3: column text is empty"),
        ("text,label\na,\n", "line 2: the label is ''"),
        ("text,label\n", "has no rows"),
        ("text,label,label\na,b,c\n", "2 columns are named 'label'"),
        ("text,mark\na,b\n", "there is no column 'label'"),
        ("", "is empty"),
        (b"text,label\ncaf\xe9,positive\n", "line 2 is not UTF-8"),
    ],
)
def test_bad_tables_end_with_one_sentence(evaluated, tmp_path, content, message):
    file = tmp_path / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, error, found = evaluated(file, "--columns", "text", "label")
    assert (status, out, found) == (2, "", None)
    assert str(file) in error
    assert message in error


def test_rows_with_an_empty_cell_are_skipped_on_request(evaluated, tmp_path):
    empty = [Example(("  ",), "positive"), Example(("a film",), "")]
    file = write_labeled(tmp_path / "a.csv", [*make_sentences(20, seed=9), *empty])
    status, _, error, _ = evaluated(file)
    assert status == 2
    assert "--drop-empty" in error
    status, _, error, found = evaluated(file, "--drop-empty")
    assert (status, found["examples"]) == (0, 20)
    assert f"skipped: 1 rows without a label of {file}" in error


def test_texts_with_two_labels_are_counted(evaluated, tmp_path):
    rows = make_sentences(20, seed=9)
    other = {"positive": "negative", "negative": "positive"}[rows[3].label]
    rows += [rows[2], Example(rows[3].sentences, other)]
    file = write_labeled(tmp_path / "a.csv", rows)
    status, _, error, found = evaluated(file)
    assert (status, found["examples"]) == (0, 22)
    assert f"1 rows of {file} have the text of an earlier row" in error
    assert error.endswith(f"{file}, line 23")


def test_bad_arguments_end_with_one_sentence(refusal, evaluated, tmp_path):
    file = write_labeled(tmp_path / "a.csv", [Example(("a", "b"), "neutral")])
    pair = ["--columns", "sentence1", "sentence2", "label"]
    odd = tmp_path / "odd.csv"
    odd.write_text("a,b\nx,y\n")
    for argv, message in (
        ([tmp_path / "no.csv", *pair], "missing file"),
        ([odd], f"{odd} has the columns 'a', 'b'"),
        ([toy_data(), *pair], "--columns needs a table"),
        ([toy_data(), "--drop-empty"], "--drop-empty needs a table"),
        ([file, "--split", "test"], "--split test needs a data folder"),
        ([file, *pair], "has pairs, but the model was trained on single sentences"),
        ([toy_data(), "--split", "x"], "x.input0"),
        ([tmp_path], "there is no data folder"),
        ([toy_data(), "--max-tokens", "0"], "--max-tokens is 0"),
    ):
        status, out, error, _ = evaluated(*argv)
        assert (status, out) == (2, "")
        assert message in error
    words = ["evaluate", "--model", toy_model(), toy_data(), "--to"]
    assert "it must end in .json" in refusal(*words, "a.md")
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    assert f"{mine} is not replaced" in refusal(*words, mine.with_suffix(".json"))


def test_a_model_folder_that_was_changed_is_refused(evaluated, tmp_path):
    model = shutil.copytree(toy_model(), tmp_path / "model")
    (model / "vocab.txt").write_text("x")
    status, _, error, _ = evaluated(toy_data(), model=model)
    assert (status, f"{model / 'vocab.txt'} was changed" in error) == (2, True)


def test_an_output_that_is_not_a_number_names_the_model(evaluated, monkeypatch):
    monkeypatch.setattr(
        evaluation,
        "logits",
        lambda model, rows, _: torch.full((len(rows), 2), float("nan")),
    )
    status, _, error, _ = evaluated(toy_data())
    assert status == 2
    assert f"error: {toy_model()} computes an output that is NaN" in error
