"""The noise of back-translations: values worked out by hand, sheets and files."""

import csv
import errno
import io
import json
import math
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial

import numpy as np
import pytest

from fairseq_scl.augment.distance import (
    distinct,
    length_ratio,
    measure,
)
from fairseq_scl.cli import main
from fairseq_scl.data.outputs import Output
from fairseq_scl.data.texts import Example
from fairseq_scl.inference.encoder_folder import load_encoder, sentence_embedder
from fairseq_scl.inference.predict import encode
from fairseq_scl.report.noise_sheets import (
    NOISE,
    measured,
    noise_sheet,
    read_files,
    sentences_sheet,
)
from helpers.encoders import make_pairs, make_sentences, toy_encoder
from helpers.html import Reader
from helpers.outputs import rows_of, write_outputs
from helpers.results import attempts_of, make_table, write_results
from helpers.training import Terminal


def outputs(*groups):
    """Outputs of single sentences: a source and what came of it, for each example."""
    return [
        [Output(n, "x", (source,), (text,), "") for text in texts]
        for n, (source, *texts) in enumerate(groups)
    ]


@pytest.mark.parametrize(
    ("sentences", "n", "value"),
    [
        (["a b a b"], 1, 2 / 4),
        (["a b a b"], 2, 2 / 3),  # ab, ba, ab
        (["a b", "b a", "a b"], 2, 2 / 3),  # no pair across sentences
        (["a", "A"], 1, 1.0),
        (["a a a a a"], 1, 1 / 5),
    ],
)
def test_distinct_counts_different_word_groups(sentences, n, value):
    assert distinct(sentences, n) == pytest.approx(value)


def test_texts_without_words_have_no_measure():
    assert math.isnan(distinct(["one"], 2))
    assert math.isnan(length_ratio(["a"], [""]))
    assert length_ratio(["a b c", "d"], ["a b", ""]) == 2


def test_a_copy_has_no_noise():
    text = "the film is a very good one"
    found = measure([outputs((text, text, text))])
    assert (found.unchanged, found.length_ratio) == (1, 1)
    assert found.chrf == pytest.approx(100)
    assert found.bleu == pytest.approx(100)
    assert found.distinct == found.source_distinct == (1, 1)


def test_known_values():
    """One of two outputs has lost half of its source; worked out by hand.

    BLEU: 6 words of 8; n-gram precisions 6/6, 4/4, 3/3, 2/2 and a brevity penalty
    exp(1 - 8/6).
    """
    found = measure([outputs(("a b c d e", "a b c d e"), ("f g h", "f"))])
    assert found.unchanged == 0.5
    assert found.length_ratio == pytest.approx(6 / 8)
    assert found.bleu == pytest.approx(100 * math.exp(1 - 8 / 6))
    assert 0 < found.chrf < 100


def test_entirely_new_words_have_no_overlap():
    found = measure([outputs(("aaaa", "zzzz"))])
    assert (found.unchanged, found.chrf) == (0, 0)


def test_distinct_is_taken_over_one_copy_at_a_time():
    """Three equal copies are no less diverse than their source."""
    found = measure([outputs(("a b", *["a b"] * 3), ("c d", *["c d"] * 3))])
    assert found.outputs == 6
    assert found.distinct == found.source_distinct == (1, 1)


def test_sentences_of_a_pair_count_both():
    pair = [Output(0, "x", ("a b", "c d"), ("a b", "c"), "")]
    found = measure([[pair]])
    assert (found.outputs, found.unchanged) == (1, 0)
    assert found.length_ratio == 3 / 4
    lost = [[[Output(0, "x", ("a", "b"), ("a", " "), "")]]]
    assert measure(lost).empty == 1


def test_meanings_are_compared_pair_by_pair():
    places = {"a": (1, 0), "b": (0, 2), "c": (3, 3)}

    def embed(sentences):
        return np.array([places[sentence] for sentence in sentences], float)

    found = measure([outputs(("a", "a", "b"), ("b", "c", "b"))], embed)
    own, to_others = (1 + 0 + math.sqrt(0.5) + 1) / 4, (0 + 1 + math.sqrt(0.5) + 0) / 4
    assert found.cosine == pytest.approx((own, to_others))
    assert measure([outputs(("a", "b"))]).cosine is None


def test_the_embedding_of_a_sentence_is_the_mean_of_its_states():
    encoder = load_encoder(toy_encoder())
    sentence = make_sentences(1)[0].sentences
    (tokens,), _ = encode(encoder, [sentence])
    states = encoder.model(tokens[None], features_only=True)[0]
    both = [*sentence, "a film that is longer than the other sentence is"]
    found = sentence_embedder(toy_encoder())(both)
    expected = states.mean(dim=1)[0].detach().numpy()
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    """Augmented files of two tasks; two samples of the first."""
    for task, make in (("SST-2", make_sentences), ("MNLI", make_pairs)):
        for sample in (0, 1):
            for temperature in ("0.3", "0.9") if sample == 0 else ("0.9",):
                name = f"n8-sample{sample}-bt{temperature}.jsonl"
                rows = rows_of(make(8, seed=sample), 2)
                write_outputs(tmp_path / "aug" / task / name, rows)
    return tmp_path / "aug"


def test_files_of_a_task_and_temperature_count_together(folder):
    found = read_files([folder])
    assert {t: {k: sorted(v) for k, v in o.items()} for t, o in found.items()} == {
        task: {"0.3": ["n8-sample0"], "0.9": ["n8-sample0", "n8-sample1"]}
        for task in ("MNLI", "SST-2")
    }
    sheet = noise_sheet(measured(found))
    assert [row[:3] for row in sheet.rows[:3]] == [
        ("MNLI", "original", "8"),
        ("MNLI", "0.3", "16"),
        ("MNLI", "0.9", "32"),
    ]
    assert sheet.rows[1][3] == "50.0%"


def test_the_bar_counts_tasks_and_temperatures(folder):
    with redirect_stderr(Terminal()) as terminal:
        assert main(["noise", str(folder)]) == 0
    assert "4/4" in terminal.getvalue()


def test_temperatures_go_by_their_number(tmp_path):
    for temperature in ("10", "0.5", "0.5-0.3"):
        rows = rows_of(make_sentences(4))
        write_outputs(tmp_path / "SST-2" / f"a-bt{temperature}.jsonl", rows)
    assert list(read_files([tmp_path])["SST-2"]) == ["0.5", "0.5-0.3", "10"]


def test_sentences_are_laid_out_as_in_table_6(folder):
    sheet = sentences_sheet(read_files([folder]), ["0.3", "0.9"], examples=2)
    assert sheet.header == ("Dataset", "Type", "Sentence")
    kinds = ["Original", "Augmented (T=0.3)", "Augmented (T=0.9)"]
    assert [row[1] for row in sheet.rows] == kinds * 4
    assert [row[0] for row in sheet.rows[::6]] == ["MNLI", "SST-2"]
    singles = make_sentences(8)
    assert sheet.rows[6][2] == singles[0].sentences[0]
    assert sheet.rows[9][2] == singles[4].sentences[0]
    assert " // " in sheet.rows[0][2]


def test_files_are_written_before_anything_is_printed(folder, tmp_path):
    table = make_table()
    results = write_results(tmp_path / "r", table, attempts_of(table, {}))
    for argv, name in ((["noise", folder, "--to"], NOISE), (["report"], "table.csv")):
        with redirect_stdout(FullDisk()), suppress(OSError):
            main([*map(str, argv), str(results)])
        assert (results / name).is_file()


def test_files_of_others_are_not_overwritten(folder, tmp_path, refusal):
    table = make_table()
    results = write_results(tmp_path / "r", table, attempts_of(table, {}))
    for argv, name in ((["noise", folder, "--to"], NOISE), (["report"], "table.tex")):
        (results / name).write_text("years of work")
        assert f"{name} is not replaced" in refusal(*argv, results)
        assert (results / name).read_text() == "years of work"
    assert not (results / "table.md").exists()


class FullDisk(io.StringIO):
    """Standard output that cannot be written, such as ``/dev/full``."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_command_writes_and_the_page_of_a_table_shows_it(folder, tmp_path, capfd):
    table = make_table()
    results = write_results(tmp_path / "r", table, attempts_of(table, {}))
    assert main(["noise", str(folder), "--to", str(results), "--html"]) == 0
    out = capfd.readouterr().out
    assert "| MNLI | 0.3 | 16 | 50.0% | 0 |" in out
    assert "\n`BLEU: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version" in out
    assert " chrF2: nrefs:1|case:mixed|" in out
    assert (results / "noise.md").read_text("utf-8") in out
    rows = list(csv.DictReader((results / "noise.csv").open(encoding="utf-8")))
    assert [row["temperature"] for row in rows] == ["0.3", "0.9"] * 2
    assert float(rows[0]["unchanged"]) == 0.5
    page = Reader((results / "noise.html").read_text("utf-8"))
    assert not page.links
    assert "Augmented (T=0.9)" in page.text
    assert main(["report", str(results), "--html"]) == 1  # no run has finished
    shown = Reader((results / "report.html").read_text("utf-8")).text
    assert "Back-translations against their sources" in shown
    assert "Augmented (T=0.9)" in shown


def test_an_encoder_adds_a_column(folder, tmp_path, capfd, refusal):
    argv = ["noise", str(folder), "--to", str(tmp_path), "--encoder"]
    assert main([*argv, str(toy_encoder())]) == 0
    out = capfd.readouterr().out
    assert "| chrF | BLEU | cosine | to others | distinct-1 |" in out
    assert " cosine: encoder:" in out
    rows = list(csv.DictReader((tmp_path / "noise.csv").open(encoding="utf-8")))
    for row in rows:
        assert 0 < float(row["cosine_to_others"]) < float(row["cosine"]) < 1
    error = refusal(*argv, tmp_path)
    assert "is not an encoder folder (model.pt, dict.txt)" in error


def test_markup_in_a_sentence_is_text(tmp_path, capfd):
    evil = "<script>alert('x')</script> | & *x*"
    rows = rows_of([Example((evil,), "a"), Example(("b",), "b")])
    file = write_outputs(tmp_path / "SST-2" / "a-bt0.3.jsonl", rows)
    to = tmp_path / "to"
    argv = ["noise", str(file), "--to", str(to), "--html"]
    assert main(argv) == 0
    assert r"\<script>alert('x')\</script> \| & \*x\*" in capfd.readouterr().out
    text = (to / "noise.html").read_text("utf-8")
    assert "<script>" not in text
    assert evil in Reader(text).text
    assert json.loads((to / "noise.json").read_text("utf-8"))["schema"] == 1
    write_outputs(file, rows_of([Example(("new",), "a"), Example(("b",), "b")]))
    assert main(argv[:-1]) == 0  # without --html, the page is still renewed
    assert "new" in Reader((to / "noise.html").read_text("utf-8")).text


def test_bad_input_is_one_sentence(folder, tmp_path, refusal):
    refused = partial(refusal, "noise")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "does not contain files NAME-bt….jsonl" in refused(empty)
    assert "there is no file or folder" in refused(tmp_path / "none")
    (tmp_path / "a.jsonl").touch()
    assert "lacks a temperature in its name" in refused(tmp_path / "a.jsonl")
    twice = "have the same name and task: give one of them"
    assert twice in refused(folder, folder / ".." / folder.name)
    shutil.copytree(folder, tmp_path / "of another day")
    assert twice in refused(folder, tmp_path / "of another day")
    assert "--html needs --to" in refused(folder, "--html")
    assert "--examples is 0: it must be at least 1" in refused(folder, "--examples", 0)
    line = refused(folder, "--temperatures", "0.3", "0.7")
    assert "--temperatures is 0.3 0.7: it must be temperatures" in line
    other = rows_of(make_sentences(8, seed=5))
    write_outputs(folder / "SST-2" / "n8-sample0-bt0.9.jsonl", other)
    assert "the files must be of the same sample" in refused(folder)
