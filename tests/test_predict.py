"""``fairseq-scl predict`` and the functions below it."""

import io
import json
import subprocess
import sys

import pytest
import torch
from toy_encoder import BAD, GOOD, POSITIONS, make_pairs, make_sentences, toy_model

from fairseq_scl.cli import main
from fairseq_scl.cli import predict as predict_verb
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, features, probabilities

TEXTS = [e.sentences[0] for e in make_sentences(20, seed=5)]
PAIRS = ["\t".join(e.sentences) for e in make_pairs(6, seed=5)]


@pytest.fixture
def predict(monkeypatch, capfd):
    """Run the verb on bytes from standard input; return status, lines and notes."""

    def run(content, *arguments, pairs=False, terminal=False):
        stream = io.BytesIO(content)
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        argv = ["predict", "--model", str(toy_model(pairs)), "--device", "cpu"]
        status = main([*argv, *map(str, arguments)])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out.split("\n")[:-1], notes_of(printed.err)

    return run


def notes_of(standard_error):
    lines = standard_error.splitlines()
    return [line for line in lines if line.startswith("fairseq-scl: ")]


def lines(*texts):
    return "".join(text + "\n" for text in texts).encode()


def expected(texts, pairs=False):
    """Label and probability of each text alone, in a batch of its own."""
    classifier = load_classifier(toy_model(pairs))
    answers = []
    for text in texts:
        columns = tuple(text.split("\t")) if pairs else (text,)
        (row,) = probabilities(classifier, encode(classifier, [columns])[0])
        answers.append((classifier.labels[row.argmax()], float(row.max())))
    return answers


def parsed(row):
    label, probability = row.split("\t")
    return label, pytest.approx(float(probability), abs=2e-4)


def test_standard_input_is_answered_line_by_line_in_order(predict):
    status, rows, notes = predict(lines(*TEXTS))
    assert (status, notes) == (0, [])
    assert expected(TEXTS) == [parsed(row) for row in rows]
    assert {row.split("\t")[0] for row in rows} == {"negative", "positive"}


def test_a_file_is_answered_as_standard_input_is(predict, tmp_path):
    file = tmp_path / "it's a file.txt"
    file.write_bytes(lines(*TEXTS))
    assert predict(b"", file)[:2] == predict(lines(*TEXTS))[:2]
    assert predict(lines(*TEXTS), "-")[1] == predict(b"", file)[1]


def test_order_is_kept_over_mixed_lengths_and_small_batches(predict):
    texts = [" ".join([text] * (1 + i * 7 % 4)) for i, text in enumerate(TEXTS)]
    for tokens in (1, 50, 4096):
        _, rows, _ = predict(lines(*texts), "--max-tokens", tokens)
        assert expected(texts) == [parsed(row) for row in rows]


def test_order_is_kept_over_several_chunks(predict, monkeypatch):
    monkeypatch.setattr(predict_verb, "CHUNK", 3)
    texts = [TEXTS[0], "", *TEXTS[1:8], "", ""]
    _, rows, notes = predict(lines(*texts))
    assert [row == "\t" for row in rows] == [not text for text in texts]
    assert expected([t for t in texts if t]) == [parsed(r) for r in rows if r != "\t"]
    assert notes == ["fairseq-scl: 3 lines empty"]


def test_json_lines_hold_the_probabilities_of_all_labels(predict):
    _, rows, _ = predict(lines(*TEXTS), "--format", "json")
    for row, (label, probability) in zip(rows, expected(TEXTS), strict=True):
        answer = json.loads(row)
        assert list(answer) == ["label", "probability", "probabilities"]
        assert answer["label"] == label
        assert answer["probability"] == pytest.approx(probability, abs=1e-5)
        assert answer["probabilities"].keys() == {"negative", "positive"}
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_empty_lines_have_empty_answers(predict):
    content = lines(TEXTS[0], "", "  \t ", TEXTS[1])
    status, rows, notes = predict(content)
    assert (status, rows[1:3], len(rows)) == (0, ["\t", "\t"], 4)
    assert notes == ["fairseq-scl: 2 lines empty"]
    _, rows, _ = predict(content, "--format", "json")
    nothing = {"label": None, "probability": None, "probabilities": None}
    assert [json.loads(row) for row in rows[1:3]] == [nothing, nothing]


def test_no_input_gives_no_output(predict):
    assert predict(b"") == (0, [], [])


def test_the_last_line_needs_no_line_feed_and_carriage_returns_do_not_count(predict):
    plain = predict(lines(*TEXTS[:2]))
    assert predict("\r\n".join(TEXTS[:2]).encode()) == plain
    assert predict(b"\xef\xbb\xbf" + lines(*TEXTS[:2])) == plain


def test_a_line_of_ten_thousand_words_is_cut_as_in_training(predict):
    long = " ".join([*(BAD * 2000), GOOD[0]])
    status, rows, notes = predict(lines(TEXTS[0], long, TEXTS[1]))
    assert (status, len(rows)) == (0, 3)
    assert notes == ["fairseq-scl: 1 line cut to the model's length"]
    classifier = load_classifier(toy_model())
    (cut,) = encode(classifier, [(long,)])[0]
    assert len(cut) == classifier.max_positions == POSITIONS
    assert expected([TEXTS[0], long, TEXTS[1]]) == [parsed(row) for row in rows]


def test_bytes_that_are_not_utf8_are_replaced_and_counted(predict):
    content = b"caf\xe9 film\n\xff\xfe\x00\n" + lines(TEXTS[0], "a \ufffd b")
    status, rows, notes = predict(content)
    assert (status, len(rows)) == (0, 4)
    assert notes == ["fairseq-scl: 2 lines not UTF-8"]
    assert all(row.split("\t")[0] for row in rows)


def test_what_looks_like_a_special_token_is_text(predict):
    texts = ["</s> <s> <pad> <mask> [SEP] [CLS]", "\x00", "\u2028x", "🙂"]
    status, rows, _ = predict(lines(*texts))
    assert (status, len(rows)) == (0, 4)
    classifier = load_classifier(toy_model())
    special = {classifier.dictionary.pad(), classifier.dictionary.eos()}
    (ids,) = encode(classifier, [(texts[0],)])[0]
    assert special & set(ids[:-1].tolist()) == set()


def test_pairs_are_separated_by_a_tab(predict):
    status, rows, _ = predict(lines(*PAIRS), pairs=True)
    assert status == 0
    assert expected(PAIRS, pairs=True) == [parsed(row) for row in rows]


@pytest.mark.parametrize(("text", "count"), [("one sentence", 1), ("a\tb\tc", 3)])
def test_pairs_with_other_columns_are_refused_with_their_line(predict, text, count):
    status, _, notes = predict(lines(PAIRS[0], text, PAIRS[1]), pairs=True)
    assert status == 2
    assert notes == [
        f"fairseq-scl: error: line 2 has {count} columns: this model takes two "
        "sentences with a tab between them"
    ]


def test_a_tab_in_a_single_sentence_is_white_space(predict):
    assert predict(b"a\tgood film\n")[1] == predict(b"a good film\n")[1]


def test_at_a_terminal_each_line_is_answered_at_once(predict, monkeypatch):
    sizes = []
    one_chunk = predict_verb._predicted

    def note(classifier, chunk, *more):
        sizes.append(len(chunk))
        return one_chunk(classifier, chunk, *more)

    monkeypatch.setattr(predict_verb, "_predicted", note)
    predict(lines(*TEXTS[:3]), terminal=True)
    predict(lines(*TEXTS[:3]))
    assert sizes == [1, 1, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-tokens", "0"], "--max-tokens is 0: it must be at least 1"),
        (["nothing here"], "missing file: nothing here"),
        ([".."], "missing file: .."),
    ],
)
def test_bad_arguments_end_with_one_sentence(predict, arguments, message):
    assert predict(b"", *arguments) == (2, [], [f"fairseq-scl: error: {message}"])


def test_a_missing_model_folder_ends_with_one_sentence(capfd, tmp_path):
    assert main(["predict", "--model", str(tmp_path / "none"), "--device", "cpu"]) == 2
    printed = capfd.readouterr()
    assert notes_of(printed.err) == [
        f"fairseq-scl: error: {tmp_path / 'none'} is no model folder: classifier.json "
        "is missing; 'fairseq-scl export' makes one from a checkpoint"
    ]
    assert "Traceback" not in printed.err


def test_a_reader_that_goes_away_leaves_no_traceback():
    """As ``fairseq-scl predict … | head -1``."""
    argv = [sys.executable, "-m", "fairseq_scl.cli", "predict", "--format", "json"]
    process = subprocess.Popen(
        [*argv, "--model", toy_model(), "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer = subprocess.Popen(["yes", TEXTS[0]], stdout=process.stdin)
    process.stdin.close()
    first = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    writer.kill()
    writer.wait()
    assert process.wait(60) == 141
    assert json.loads(first)["label"] in ("negative", "positive")
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_probabilities_do_not_depend_on_the_batch():
    classifier = load_classifier(toy_model())
    encoded = encode(classifier, [(text,) for text in TEXTS])[0]
    together = probabilities(classifier, encoded)
    assert together.shape == (len(TEXTS), 2)
    torch.testing.assert_close(together.sum(1), torch.ones(len(TEXTS)))
    alone = torch.cat([probabilities(classifier, [row]) for row in encoded])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["cls", "pooled"])
def test_features_come_in_the_order_of_the_examples(kind):
    classifier = load_classifier(toy_model())
    encoded = encode(classifier, [(text,) for text in TEXTS])[0]
    together = features(classifier, encoded, kind, max_tokens=60)
    alone = torch.cat([features(classifier, [row], kind) for row in encoded])
    assert together.shape == (len(TEXTS), 16)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
