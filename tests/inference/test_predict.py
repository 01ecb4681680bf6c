"""``fairseq-scl predict`` and the functions below it."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import torch

from fairseq_scl.cli import main
from fairseq_scl.cli import predict as predict_verb
from fairseq_scl.data.readers import own_table
from fairseq_scl.inference import predict as prediction
from fairseq_scl.inference.inputs import arriving_lines
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, features, probabilities
from helpers.encoders import BAD, GOOD, POSITIONS, make_pairs, make_sentences, toy_model

TEXTS = [e.sentences[0] for e in make_sentences(20, seed=5)]
PAIRS = ["\t".join(e.sentences) for e in make_pairs(6, seed=5)]


@pytest.fixture
def predict(monkeypatch, capfd):
    """Run the verb on bytes from standard input; return status, lines and notes."""

    def run(content, *arguments, pairs=False):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
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


def test_a_file_gives_the_answers_of_standard_input(predict, tmp_path):
    file = tmp_path / "it's a file.txt"
    file.write_bytes(lines(*TEXTS))
    assert predict(b"", file)[:2] == predict(lines(*TEXTS))[:2]
    assert predict(lines(*TEXTS), "-")[1] == predict(b"", file)[1]


def test_order_is_kept_over_mixed_lengths_and_small_batches(predict):
    texts = [" ".join([text] * (1 + i * 7 % 4)) for i, text in enumerate(TEXTS)]
    for tokens in (1, 50, 4096):
        _, rows, _ = predict(lines(*texts), "--max-tokens", tokens)
        assert expected(texts) == [parsed(row) for row in rows]


def test_order_is_kept_over_several_chunks(predict):
    texts = [TEXTS[0], "", *TEXTS[1:8], "", ""]
    _, rows, notes = predict(lines(*texts), "--buffer-size", "3")
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


EMPTY = "1 line empty"


@pytest.mark.parametrize(
    ("content", "pairs", "counted"),
    [
        (
            b"caf\xe9 film\n\xff\xfea\n" + lines(TEXTS[0], "a \ufffd b"),
            False,
            ["2 lines not UTF-8"],
        ),
        (
            lines("\u4f60", TEXTS[0], f"{TEXTS[0]} \u4f60", ""),
            False,
            [EMPTY, "1 line with unknown tokens only"],
        ),
        (
            lines(PAIRS[0], "a film\t ", "\ta film", "\t"),
            True,
            [EMPTY, "2 lines with only one of two sentences"],
        ),
    ],
)
def test_doubtful_lines_are_answered_and_counted(predict, content, pairs, counted):
    status, rows, notes = predict(content, pairs=pairs)
    assert (status, len(rows)) == (0, 4)
    assert notes == [f"fairseq-scl: {note}" for note in counted]
    assert rows.count("\t") == (EMPTY in counted)


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


@pytest.mark.parametrize(
    ("text", "found"), [("one sentence", "1 column"), ("a\tb\tc", "3 columns")]
)
def test_pairs_with_other_columns_are_refused_with_their_line(predict, text, found):
    status, _, notes = predict(lines(PAIRS[0], text, PAIRS[1]), pairs=True)
    assert status == 2
    assert notes == [
        f"fairseq-scl: error: line 2 has {found}, but this model takes "
        "two sentences separated by a tab"
    ]


def test_a_tab_in_a_single_sentence_is_whitespace(predict):
    assert predict(b"a\tgood film\n")[1] == predict(b"a good film\n")[1]


@pytest.mark.parametrize("white", [" {}", "{} ", "\t{}\u00a0", "{}\x0b"])
def test_white_space_does_not_change_an_answer(predict, white):
    doubled = [text.replace(" ", "  ") for text in TEXTS]
    spaced = predict(lines(*(white.format(text) for text in doubled)))
    assert spaced == predict(lines(*TEXTS))


def test_a_pipe_is_answered_when_it_pauses(capfd):
    """The reader of ``predict FILE`` waits for answers before it writes more."""
    ours, theirs = os.pipe()
    argv = ["predict", "--model", str(toy_model()), "--device", "cpu"]
    thread = threading.Thread(target=main, args=([*argv, f"/dev/fd/{ours}"],))
    thread.start()
    found = []
    for count in (1, 3, 1):
        os.write(theirs, lines(*TEXTS[len(found) : len(found) + count]))
        wanted, end = len(found) + count, time.monotonic() + 100
        while len(found) < wanted and time.monotonic() < end:
            found += capfd.readouterr().out.splitlines()
            time.sleep(0.02)
        assert len(found) == wanted
    os.write(theirs, TEXTS[5].encode())
    os.close(theirs)
    thread.join(100)
    os.close(ours)
    found += capfd.readouterr().out.splitlines()
    assert expected(TEXTS[:6]) == [parsed(row) for row in found]


def test_lines_are_the_same_however_they_arrive():
    content = b"".join(b"%d" % i * (i % 5) + b"\n" for i in range(99)) + b"x" * 200_000
    ours, theirs = os.pipe()
    writer = threading.Thread(target=_write_slowly, args=(theirs, content))
    writer.start()
    with open(ours, "rb") as stream:
        found = [line for line in arriving_lines(stream) if line is not None]
    writer.join()
    assert found == io.BytesIO(content).readlines()


def _write_slowly(descriptor, content):
    with open(descriptor, "wb", buffering=0) as file:
        for start in range(0, len(content), 30_000):
            file.write(content[start : start + 30_000])
            time.sleep(0.02)


TABLES = {
    "csv": 'id,text\r\n7,"{}"\r\n8,"{}"\r\n9,""\r\n',
    "tsv": "id\ttext\n7\t{}\n8\t{}\n9\t \n",
    "jsonl": '{{"id": 7, "text": "{}"}}\n\n{{"id": 8, "text": "{}"}}\n'
    '{{"id": 9, "text": ""}}\n',
}


@pytest.mark.parametrize("format", TABLES)
def test_tables_are_read_and_columns_echoed(predict, tmp_path, format):
    content = TABLES[format].format(TEXTS[0], TEXTS[1]).encode()
    file = tmp_path / f"a table.{format}"
    file.write_bytes(content)
    wanted = ["--echo", "id", "--columns", "text"]
    status, rows, notes = predict(b"", *wanted, "--format", "json", "--", file)
    assert (status, notes) == (0, ["fairseq-scl: 1 line empty"])
    found = [json.loads(row) for row in rows]
    assert [int(row["input"]["id"]) for row in found] == [7, 8, 9]
    assert [row["label"] for row in found] == [e[0] for e in expected(TEXTS[:2])] + [
        None
    ]
    _, piped, _ = predict(content, *wanted, "--input-format", format)
    assert [row.split("\t")[:2] for row in piped] == [
        [str(row["input"]["id"]), row["label"] or ""] for row in found
    ]


def test_an_echoed_label_of_json_is_that_of_training(predict, tmp_path):
    file = tmp_path / "a.jsonl"
    labels = [True, 1, 1.5, "été"]
    rows = [{"text": "a film", "label": label} for label in labels]
    file.write_text("\n".join(map(json.dumps, rows)))
    read = [example.label for _, example in own_table(file, ["text", "label"])]
    _, rows, _ = predict(b"", file, "--columns", "text", "--echo", "label")
    assert [row.split("\t")[0] for row in rows] == read


def test_a_quoted_field_may_hold_line_breaks_and_quotes(predict):
    text = f'{TEXTS[0]}\n""{TEXTS[1]}""'
    content = f'text,n\n"{text}",1\n{TEXTS[2]},2\n'.encode()
    wanted = ["--columns", "text", "--input-format", "csv", "--echo", "n", "text"]
    _, rows, _ = predict(content, *wanted)
    plain = text.replace('""', '"').replace("\n", " ")
    assert [row.split("\t")[:2] for row in rows] == [["1", plain], ["2", TEXTS[2]]]
    assert expected([plain, TEXTS[2]]) == [
        parsed("\t".join(row.split("\t")[2:])) for row in rows
    ]


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("csv", 'text\n"a', "line 2 opens a quote"),
        ("tsv", "", "line 1 is missing: it must name the columns"),
        ("csv", "text\ra\rb\r", "line 1 has a carriage return (CR) inside"),
        ("csv", "text\na\rb\n", "line 2 has a carriage return (CR) inside"),
        ("tsv", "text\ta\rb\tc\r", "line 1 has a carriage return (CR) inside"),
        (
            "jsonl",
            '{"text": "a"}\r{"text": "b"}\r',
            "line 1 has a carriage return (CR)",
        ),
        ("csv", "text,n,text\na,1,b", "line 1: 2 columns are named 'text'"),
        ("jsonl", '{"text": "a", "text": "b"}', "the name 'text' occurs twice"),
        ("csv", "words\na", "line 1: there is no column 'text', only 'words'"),
        ("tsv", "text\ta\nb\n", "line 2 has 1 column, expected 2 (text, a)"),
        ("jsonl", '{"text": "a"}\n[1]\n', "line 2 is not a JSON object"),
        ("jsonl", '{"text": NaN}', "line 1 is not JSONL: NaN is not"),
        ("jsonl", '{"text": ["a"]}', "line 1: text is ['a'], expected text"),
        ("jsonl", '{"text": "\\ud800"}', "line 1: text has an unpaired surrogate"),
        ("jsonl", "[" * 200_000, "line 1 is not JSONL: too deeply nested"),
    ],
)
def test_a_damaged_table_is_refused_by_line(predict, format, content, message):
    wanted = ["--columns", "text", "--input-format", format]
    status, _, notes = predict(content.encode(), *wanted)
    assert (status, len(notes)) == (2, 1)
    assert message in notes[0]


def test_errors_name_the_file_and_the_line(predict, tmp_path):
    table = tmp_path / "t.csv"
    for content, line in (("text,b\na,b\n", 1), ("text,c\na,b\nc\n", 3)):
        table.write_text(content)
        words = [str(table), "--columns", "text", "--echo", "c"]
        status, _, notes = predict(b"", *words)
        assert (status, len(notes)) == (2, 1)
        assert notes[0].startswith(f"fairseq-scl: error: {table}, line {line}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-tokens", "0"], "--max-tokens is 0: it must be at least 1"),
        (["nothing here"], "cannot use nothing here: No such file"),
        ([".."], ".. is a folder: give a file"),
        (
            ["--model", "nothing here"],
            "the model folder nothing here does not exist: 'fairseq-scl train' makes",
        ),
        (["--columns", "text"], "--columns needs --input-format"),
        (["--input-format", "csv"], "--input-format csv needs --columns"),
        (["--echo", "id"], "--echo id is a column"),
        (["--buffer-size", "0"], "--buffer-size is 0"),
        (["--columns", "a", "b", "--input-format", "csv"], "--columns names 2 columns"),
        (
            ["--columns", "a", "--input-format", "csv", "--echo", "z"],
            "error: line 1: there is no column 'z', only 'a'",
        ),
        (["--columns", "a", "b", "c", "--input-format", "tsv"], "names 3 columns"),
    ],
)
def test_bad_arguments_end_with_one_sentence(predict, arguments, message):
    status, _, notes = predict(b"a\nb\n", *arguments)
    assert (status, len(notes)) == (2, 1)
    assert message in notes[0]


def test_predict_and_prepare_agree_on_quotes_in_a_tsv(predict, tmp_path):
    cases = [('"a ""good"" film"', 'a "good" film'), ('"a', '"a'), ('5" x', '5" x')]
    for quote, plain in cases:
        file = tmp_path / "a.tsv"
        file.write_text(f"text\tn\n{quote}\t1\n{TEXTS[0]}\t2\n")
        (_, example), *_ = own_table(file, ["text", "n"])
        _, rows, _ = predict(b"", file, "--echo", "text", "--columns", "text")
        assert rows[0].split("\t")[0] == example.sentences[0] == plain


def test_a_quote_inside_a_csv_field_that_is_not_quoted_is_text(predict):
    content = b'text,n\n5" of film,1\ngood,2\n'
    wanted = ["--columns", "text", "--input-format", "csv", "--echo", "text"]
    _, rows, _ = predict(content, *wanted)
    assert [row.split("\t")[0] for row in rows] == ['5" of film', "good"]


def test_a_table_that_is_read_line_by_line_is_pointed_out(predict, tmp_path):
    for suffix, noted in (("csv", True), ("jsonl", True), ("txt", False)):
        file = tmp_path / f"a.{suffix}"
        file.write_bytes(lines(TEXTS[0]))
        status, rows, notes = predict(b"", file)
        assert (status, len(rows)) == (0, 1)
        assert any("--columns" in note for note in notes) == noted


def test_a_file_that_is_taken_for_a_column_is_named(predict, tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text(f"text\tid\n{TEXTS[0]}\t7\n")
    for names in (["--columns", "text"], ["--columns", "text", "--echo", "id"]):
        status, _, notes = predict(b"", *names, file)
        assert (status, len(notes)) == (2, 1)
        assert str(file) in notes[0]
        status, rows, _ = predict(b"", file, *names)
        assert (status, len(rows)) == (0, 1)


def test_quotes_in_a_piped_tsv_are_pointed_out(predict, tmp_path):
    content = b'text\tid\n"a film"\t7\n"a ""good"" film"\t8\na "film"\t9\n'
    wanted = ["--columns", "text", "--input-format", "tsv"]
    _, _, notes = predict(content, *wanted)
    assert len(notes) == 1
    assert notes[0].startswith("fairseq-scl: 2 lines with quotes")
    file = tmp_path / "a.tsv"
    file.write_bytes(content.replace(b'a "film"', b"a film"))
    assert predict(b"", file, "--columns", "text")[2] == []


def test_utf16_is_pointed_out(predict):
    _, _, notes = predict("a film\n".encode("utf-16-le"))
    assert any("NUL" in note and "UTF-16" in note for note in notes)


def test_lines_are_echoed_as_text(predict):
    _, rows, _ = predict(lines(TEXTS[0], ""), "--echo", "text", "--format", "json")
    assert [json.loads(row)["input"]["text"] for row in rows] == [TEXTS[0], ""]


def test_an_answer_that_is_not_a_number_is_refused(predict, monkeypatch):
    monkeypatch.setattr(
        predict_verb,
        "early_probabilities",
        lambda _, encoded, *__: (
            torch.full((len(encoded), 2), float("nan")),
            torch.full((len(encoded),), 2),
        ),
    )
    status, rows, notes = predict(lines("", TEXTS[0]), "--format", "json")
    assert (status, len(rows)) == (2, 1)
    assert f"line 2: {toy_model()} computes an output that is NaN" in notes[0]


def test_a_closed_output_leaves_no_traceback():
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


@pytest.mark.parametrize("kind", ["cls", "pooled"])
def test_features_come_in_the_order_of_the_examples(kind, monkeypatch):
    classifier = load_classifier(toy_model())
    encoded = encode(classifier, [(text,) for text in TEXTS])[0]
    alone = torch.cat([features(classifier, [row], kind) for row in encoded])
    small = partial(prediction.batches, max_tokens=60)
    monkeypatch.setattr(prediction, "batches", small)
    together = features(classifier, encoded, kind)
    assert together.shape == (len(TEXTS), 16)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
