"""Labels that are not classes and texts that occur twice are reported."""

from collections import Counter

import pytest

from fairseq_scl.data.suspects import Checks, TextIndex, check_labels, repeated_texts
from fairseq_scl.data.texts import Example
from helpers.refusals import refused


def check(labels, any_labels=False):
    """Check the labels of a file; return the notes."""
    notes = []
    first = {label: f"f, line {labels.index(label) + 1}" for label in labels}
    check_labels(Counter(labels), first, Checks(1, any_labels, notes.append))
    return notes


@pytest.mark.parametrize(
    ("labels", "line", "problem"),
    [
        (["2.5", "4", "1.25"] * 9, 1, "rating"),
        (["1e-1", "3", "3"], 1, "rating"),
        (["1.0", "2.0", "3.5"] * 9, 3, "rating"),
        (["33.3%", "50%", "50%"], 1, "rating"),
        (["joy", "anger,joy", "anger"] * 9, 2, "several labels"),
        (["joy|fear", "fear | anger", "sad"] * 9, 1, "several labels"),
        (["a", "b", "a+b"] * 9, 3, "several labels"),
        (["3", "5", "3 5"] * 9, 3, "several labels"),
        (["['joy']", "['fear']"] * 9, 1, "list of labels"),
        (["[0, 1, 0]", "[1, 0, 0]"] * 9, 1, "list of labels"),
        (["caf\u00e9", "x", "cafe\u0301"] * 9, 3, "another spelling"),
        (["Good", "bad", "good"] * 9, 3, "another spelling"),
        (["very good", "bad", "verygood"] * 9, 3, "another spelling"),
        (["\ufeffgood", "bad", "good"] * 9, 3, "another spelling"),
        (["go\u200bod", "bad", "good"] * 9, 3, "another spelling"),
        (["1", "2", "1.0"] * 9, 3, "another spelling"),
        ([f"text {n}" for n in range(9)] + ["text 0"], 1, "one of 9 labels in only 10"),
    ],
)
def test_labels_that_are_not_classes_are_refused(labels, line, problem):
    label = f"f, line {line}: the label {labels[line - 1]!r}"
    with refused(label, problem, "--labels-are-classes"):
        check(labels)
    check(labels, any_labels=True)


@pytest.mark.parametrize(
    "labels",
    [
        ["positive", "negative"],
        ["very positive", "positive", "neutral"],
        ["1", "2", "3", "4", "5"],
        ["-1", "0", "1"],
        ["1.0", "2.0"],
        ["Business & Finance", "Sports", "Sci/Tech"],
        ["Wien, Graz", "Linz"],
        ["v1.5", "v2"],
        ["+", "-"],
        ["nan", "inf"],
        [str(n) for n in range(77)],
    ],
)
def test_classes_are_taken_as_they_are(labels):
    assert check(labels * 2) == []


def test_labels_that_occur_once_are_counted():
    (note,) = check(["b", "a", "a", "c", "d", "d"])
    assert "2 of 4 labels" in note
    assert "'b' in f, line 1" in note


def index(name, *rows):
    found = TextIndex(name)
    for line, (*texts, label) in enumerate(rows, start=2):
        found.add(line, Example(tuple(texts), label))
    return found


def test_texts_that_splits_share_are_counted_per_pair_of_splits():
    train = index("t", ("a", "x"), ("b", "y"), ("b", "y"))
    valid = index("v", ("c", "x"), ("b", "y"), ("a", "x"))
    test = index("s", ("d", "x"), ("c", "x"))
    assert list(repeated_texts({"train": train, "valid": valid, "test": test})) == [
        "2 of the 3 texts in valid also occur in train, the first at v, line 3",
        "1 of the 2 texts in test also occur in valid, the first at s, line 3",
    ]


def test_texts_with_two_labels_are_counted_wherever_they_are():
    train = index("t", ("a", "x"), ("b", "y"), ("a", "x"), ("a", "y"), ("c", "x"))
    valid = index("v", ("e", "x"), ("c", "y"))
    *_, note = repeated_texts({"train": train, "valid": valid})
    assert note.startswith("2 of the texts in train, valid have different labels")
    assert note.endswith("the first at t, line 4 and t, line 5")
    _, note = repeated_texts({"valid": valid, "train": index("t", ("c", "z"))})
    assert note.endswith("the first at v, line 3 and t, line 2")
    assert len(list(repeated_texts({"train": train, "valid": valid}, False))) == 1


def test_a_pair_is_another_text_if_one_of_its_sentences_is():
    pairs = index("t", ("a", "b", "x"), ("a", "c", "y"), ("b", "a", "y"))
    assert list(repeated_texts({"train": pairs})) == []
