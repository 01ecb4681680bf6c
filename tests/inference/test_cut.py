"""Texts that are longer than a model reads are counted, and named by each command."""

from dataclasses import replace

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarize import read_examples
from fairseq_scl.data.cut import count_cut
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.folders import check_folders
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, without_second
from helpers.encoders import (
    GOOD,
    POSITIONS,
    make_pairs,
    make_sentences,
    toy_data,
    toy_encoder,
    toy_model,
    toy_run,
)
from helpers.tables import write_labeled

LONG = " ".join(GOOD * 20)


@pytest.fixture
def say(capfd):
    """Run a command line; return its status and what it prints to stderr."""

    def call(*argv):
        status = main([str(word) for word in argv])
        return status, capfd.readouterr().err

    return call


@pytest.mark.parametrize("most", range(3, 14))
@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_counts_are_those_of_what_the_model_reads(pairs, most):
    """A pair's second sentence is read if another one gives other tokens."""
    classifier = replace(load_classifier(toy_model(pairs)), max_positions=most)
    examples = [e.sentences for e in read_examples(toy_data(pairs), "train")]
    whole, _ = encode(replace(classifier, max_positions=1000), examples)
    read, _ = encode(classifier, examples)
    cut = sum(len(tokens) > most for tokens in whole)
    unread = 0
    if pairs:
        swapped = {GOOD[0]: GOOD[1]}
        texts = [(a, swapped.get(b.split()[0], GOOD[0])) for a, b in examples]
        other, _ = encode(classifier, texts)
        unread = sum(a.equal(b) for a, b in zip(read, other, strict=True))
    assert count_cut(toy_data(pairs), ["train"], most) == (len(examples), cut, unread)
    assert without_second(classifier, read) == unread


def test_train_and_compare_say_how_many_texts_are_cut(tmp_path, say):
    table = [*make_sentences(58), Example((LONG,), "positive")]
    path = write_labeled(
        tmp_path / "a.csv", [*table, Example((f"{LONG} a",), "negative")]
    )
    words = ["--encoder", toy_encoder(), "--device", "cpu", "--updates", "1", path]
    status, error = say("train", "--to", tmp_path / "m", *words)
    note = f"60 texts are longer than {POSITIONS} tokens and are cut"
    assert status == 0
    assert error.count(f"{path}: 2 of {note}") == 1
    status, error = say("compare", "--to", tmp_path / "c", *words, "--samples", "2")
    assert (status, f"sample 0 of {path}: " in error) == (0, True)
    limit = ["--max-positions", str(POSITIONS + 1)]
    for verb in ("train", "compare"):
        status, error = say(verb, "--to", tmp_path / "new", *words, *limit)
        assert status == 2
        assert "--max-positions is 41: it must be at most 40" in error
        assert not list(tmp_path.glob("new*"))


def test_evaluate_and_predict_say_what_is_not_read(tmp_path, say):
    examples = [*make_pairs(6), Example((LONG, "a film"), "neutral")]
    path = write_labeled(tmp_path / "a.csv", examples)
    model = ["--model", toy_model(pairs=True), "--device", "cpu"]
    status, error = say("evaluate", *model, path)
    assert status == 0
    assert (
        f"{path}: 1 of 7 texts are longer than {POSITIONS} tokens and are cut; of 1, "
        "the second sentence is not read at all"
    ) in error
    columns = ["--columns", "sentence1", "sentence2"]
    status, error = say("predict", *model, path, *columns)
    assert (status, "1 line whose second sentence is not read" in error) == (0, True)


def test_a_run_with_more_positions_than_its_encoder_is_refused():
    one = toy_run(data=toy_data(), encoder=toy_encoder())
    assert check_folders([replace(one, max_positions=40)]) == []
    assert check_folders([one, one]) == [
        f"max_positions is lowered from 512 to 40, the longest input of {one.encoder}"
    ]
    with pytest.raises(InputError, match="max_positions is 41: it must be at most 40"):
        check_folders([replace(one, max_positions=41)])
