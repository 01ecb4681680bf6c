"""Augmented files: rows, repeatability, resuming, troubles."""

import itertools
import json

import pytest

from fairseq_scl.augment import backtranslate as module
from fairseq_scl.augment.backtranslate import (
    Plan,
    backtranslate,
    finished,
    name_of,
    partial_folder,
    stream_names,
)
from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.augment.sentences import Direction, has_entities, translate_texts
from fairseq_scl.augment.translator import load_translator
from fairseq_scl.data.folders import hold
from fairseq_scl.data.outputs import BackTranslationRecord
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.typed import read_as
from helpers.refusals import refused
from helpers.translation import POSITIONS, Letters, toy_models

ODD = [
    Example(("",), "x", "odd.tsv, line 1"),
    Example(("a",), "y", "odd.tsv, line 2"),
    Example(("\U0001f600 b caf\ufffd",), "x", "odd.tsv, line 3"),
    Example(("a b c a b c . d e f d e f . g h i g h i . j . k l",), "y", "line 4"),
    Example((" ".join("abcde" * 6),), "x", "odd.tsv, line 5"),
]


def directions():
    return [
        Direction(load_translator([toy_models(*pair)], *pair), Letters(), Letters())
        for pair in (("en", "de"), ("de", "en"))
    ]


def plan(temperature=1.0, copies=3, seed=0, **about):
    method = DecodingMethod(temperature)
    return Plan(seed, copies, method, method, {"models": "toys", **about})


def examples_of(count, width=1):
    texts = map(" ".join, itertools.permutations("abcde", 3))
    texts = itertools.chain(texts, ("a b c",) * count)
    return [
        Example(
            tuple(itertools.islice(texts, width)), "xy"[number % 2], f"line {number}"
        )
        for number in range(count)
    ]


def make(examples, target, made=None, **settings):
    record = backtranslate(examples, *directions(), made or plan(), target, **settings)
    return record, rows_of(target)


def rows_of(target):
    return [json.loads(line) for line in target.read_text("utf-8").splitlines()]


def test_names_of_files():
    assert name_of("n100-sample0", 0.3) == "n100-sample0-bt0.3.jsonl"
    assert name_of("n100-sample0", 0.3, 0.3) == "n100-sample0-bt0.3.jsonl"
    assert name_of("own", 1.0, 0.25) == "own-bt1-0.25.jsonl"


def test_rows_come_in_order_with_labels_and_copies(tmp_path):
    examples = examples_of(7)
    record, rows = make(examples, tmp_path / "a-bt1.jsonl")
    assert [row["origin"] for row in rows] == [n for n in range(7) for _ in range(3)]
    assert [row["copy"] for row in rows] == [0, 1, 2] * 7
    for row in rows:
        example = examples[row["origin"]]
        assert row["label"] == example.label
        assert row["source0"] == example.sentences[0]
        assert row["unchanged"] == (row["input0"] == row["source0"])
        assert row["pivot0"].isupper()
        assert "trouble" not in row
    keys = ["origin", "copy", "label", "source0", "pivot0", "input0", "unchanged"]
    assert list(rows[0]) == keys
    unchanged = sum(row["unchanged"] for row in rows)
    assert record.counts["unchanged"] == unchanged
    assert record.counts | {"examples": 7, "copies": 3, "outputs": 21} == (
        record.counts
    )
    assert read_as(tmp_path / "a-bt1.json", BackTranslationRecord) == record
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-bt1.json",
        "a-bt1.jsonl",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f600",
        "\u0444\u0438\u043b\u044c\u043c z !",
        "zz " * POSITIONS + "zz",
        ". ".join(["zz " * (POSITIONS - 4)] * 3),
    ],
)
def test_a_source_without_known_pieces_is_copied(tmp_path, text):
    examples = [Example((text,), "x"), Example(("a z c",), "y"), Example(("b",), "x")]
    record, rows = make(examples, tmp_path / "a-bt1.jsonl")
    for row in rows[:3]:
        assert row["input0"] == row["source0"] == text
        assert (row["unchanged"], row["trouble"]) == (True, ["unknown"])
    assert all("trouble" not in row for row in rows[3:])
    assert all(row["pivot0"].isupper() for row in rows[3:])
    assert record.counts["unknown"] == 3
    assert record.origins == {"unknown": [0]}
    assert record.sources == {module.UNKNOWN_PIECES: [0, 1], module.ENTITIES: []}


def test_an_unknown_sentence_of_a_pair_does_not_affect_the_other(tmp_path):
    pair = Example(("a b c", "zz !"), "x")
    _, rows = make([pair, Example(("a b c", "d"), "x")], tmp_path / "a-bt1.jsonl")
    for row in rows[:3]:
        assert row["pivot0"].isupper()
        assert (row["input1"], row["trouble"]) == ("zz !", ["unknown"])


def test_an_unknown_part_of_a_long_source_keeps_its_place(tmp_path):
    known = " ".join("abcdef" * (POSITIONS // 6))[: 2 * POSITIONS - 4] + " ."
    text = f"{known} {'zz ' * (POSITIONS - 3)}! {known}"
    _, rows = make([Example((text,), "x")], tmp_path / "a-bt1.jsonl")
    for row in rows:
        first, *_, last = row["pivot0"].split()
        assert (first + last).isupper()
        assert row["pivot0"].count("zz") == POSITIONS - 3
        assert "unknown" not in row["trouble"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I can&#39;t &amp; won&#x27;t", True),
        ("a &quot;good&quot; film", True),
        ("R&D; Q&A", False),
        ("AT&T & co; fin", False),
        ("a &nosuchname; b", False),
    ],
)
def test_html_entities_are_distinguished_from_other_ampersands(text, found):
    assert has_entities(text) is found


def test_both_sentences_of_pairs_are_translated(tmp_path):
    examples = examples_of(5, width=2)
    _, rows = make(examples, tmp_path / "a-bt1.jsonl", plan(2.0, copies=2))
    assert len(rows) == 10
    changed = [set(), set()]
    for row in rows:
        sources = (row["source0"], row["source1"])
        assert sources == examples[row["origin"]].sentences
        inputs = (row["input0"], row["input1"])
        assert row["unchanged"] == (sources == inputs)
        for field in (0, 1):
            changed[field].add(inputs[field] != sources[field])
    assert True in changed[0]
    assert True in changed[1]


def test_bytes_do_not_depend_on_batches_and_chunks(tmp_path, monkeypatch):
    examples = [*examples_of(9), *ODD]
    made = []
    for number, (max_tokens, at_once) in enumerate([(4096, 512), (1, 4), (30, 5)]):
        target = tmp_path / f"{number}-bt1.jsonl"
        monkeypatch.setattr(module, "EXAMPLES_AT_ONCE", at_once)
        make(examples, target, max_tokens=max_tokens)
        made.append((target.read_bytes(), target.with_suffix(".json").read_bytes()))
    assert made[0] == made[1] == made[2]
    other = tmp_path / "other-bt1.jsonl"
    make(examples, other, plan(seed=1))
    assert other.read_bytes() != made[0][0]


def test_the_outputs_of_an_example_do_not_depend_on_its_position(tmp_path):
    examples = examples_of(6)
    _, rows = make(examples, tmp_path / "a-bt1.jsonl", plan(2.0))
    _, some = make([examples[4], examples[1]], tmp_path / "b-bt1.jsonl", plan(2.0))
    texts = [row["input0"] for row in rows]
    assert [row["input0"] for row in some] == texts[12:15] + texts[3:6]
    twice = [examples[0], examples[1], examples[0]]
    _, again = make(twice, tmp_path / "c-bt1.jsonl", plan(2.0))
    texts = [row["input0"] for row in again]
    assert texts[:3] != texts[6:]
    names = stream_names(twice, 0)
    assert len(set(names)) == 3


def test_odd_texts_are_kept_counted_and_named(tmp_path):
    record, rows = make(ODD, tmp_path / "odd-bt1.jsonl", plan(0.1))
    assert [row["origin"] for row in rows] == [n for n in range(5) for _ in range(3)]
    of = [rows[3 * n] for n in range(5)]
    assert (of[0]["input0"], of[0]["trouble"]) == ("", ["empty"])
    assert of[0]["unchanged"]
    assert of[1]["input0"] == "a"
    assert "trouble" not in of[2]
    assert of[3]["trouble"] == ["split"]
    assert of[3]["source0"] == ODD[3].sentences[0]
    assert of[4]["trouble"] == ["truncated"]
    assert record.origins == {"empty": [0], "split": [3], "truncated": [4]}
    assert record.counts["split"] == record.counts["empty"] == 3


def test_parts_of_a_long_text_fit_and_are_joined():
    forward = directions()[0]
    text = ODD[3].sentences[0]
    translation = translate_texts(
        forward, [text], [[("s", 0)]], DecodingMethod(0.1), 4096
    )[0][0]
    whole = [  # as many sentences together as the 24 positions take
        "a b c a b c . d e f d e f . g h i g h i .",
        "j . k l",
    ]
    assert all(len(part.split()) < 24 for part in whole)
    for part, position in zip(whole, (0, -1), strict=True):
        alone = translate_texts(
            forward, [part], [[("s", 0)]], DecodingMethod(0.1), 4096
        )[0][0]
        assert translation.text.split()[position] == alone.text.split()[position]
    assert translation.trouble == {"split"}


def test_an_empty_translation_keeps_the_source(tmp_path, monkeypatch):
    both = directions()
    monkeypatch.setattr(both[1].target, "decode", lambda pieces: " ")
    examples = examples_of(2)
    target = tmp_path / "a-bt1.jsonl"
    record = backtranslate(examples, *both, plan(), target)
    for row in rows_of(target):
        assert row["input0"] == row["source0"]
        assert row["trouble"] == ["untranslated"]
        assert row["unchanged"]
    assert record.counts["untranslated"] == 6


def test_a_finished_file_is_not_made_again(tmp_path, monkeypatch):
    target = tmp_path / "a-bt1.jsonl"
    record, _ = make(examples_of(3), target)
    assert finished(target, plan())
    monkeypatch.setattr(module, "backtranslated", None)
    assert make(examples_of(3), target)[0] == record


def test_other_settings_are_refused(tmp_path):
    target = tmp_path / "a-bt1.jsonl"
    make(examples_of(3), target)
    with refused("a-bt1.json was made with seed = 0, but now it is 4"):
        finished(target, plan(seed=4))
    target.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"exists without a-bt1\.json"):
        finished(target, plan())


def test_chunks_of_other_settings_are_refused(tmp_path, chunks_of_two):
    target = tmp_path / "a-bt1.jsonl"
    stop_after(1, examples_of(6), target)
    assert sorted(p.name for p in partial_folder(target).iterdir()) == [
        "0-2.jsonl",
        "lock",
        "settings.json",
    ]
    with refused("partial was made with copies = 3, but now it is 2"):
        make(examples_of(6), target, plan(copies=2))
    with pytest.raises(InputError, match="was made with models = "):
        make(examples_of(6), target, plan(models="others"))


def test_two_at_a_time_into_one_file_are_refused(tmp_path):
    target = tmp_path / "a-bt1.jsonl"
    with (
        hold(partial_folder(target), target, "lock"),
        pytest.raises(InputError, match=f"another process is writing {target}"),
    ):
        make(examples_of(3), target)
    make(examples_of(3), target)


def test_a_folder_of_others_is_not_taken_for_chunks(tmp_path):
    target = tmp_path / "a-bt1.jsonl"
    thesis = partial_folder(target) / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with refused("contains thesis.tex, which no command wrote"):
        make(examples_of(3), target)
    assert thesis.read_text() == "years of work"


@pytest.fixture
def chunks_of_two(monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES_AT_ONCE", 2)


def stop_after(chunks, examples, target):
    """Break off as an interrupt from the keyboard does."""
    seen = []

    def stop(_):
        seen.append(1)
        if len(seen) > 2 * chunks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(examples, target, on_done=stop)


def test_an_interrupted_file_goes_on(tmp_path, chunks_of_two):
    examples, target = [*examples_of(5), *ODD], tmp_path / "a-bt1.jsonl"
    make(examples, tmp_path / "whole-bt1.jsonl")
    stop_after(2, examples, target)
    first = partial_folder(target) / "0-2.jsonl"
    before = first.stat().st_mtime_ns
    steps = []

    def watch(number):
        steps.append((number, first.exists() and first.stat().st_mtime_ns == before))

    make(examples, target, on_done=watch)
    assert sum(number for number, _ in steps) >= 12
    assert all(same for _, same in steps)
    assert target.read_bytes() == (tmp_path / "whole-bt1.jsonl").read_bytes()
    assert not partial_folder(target).exists()


def test_a_record_that_is_missing_is_written(tmp_path, monkeypatch):
    """Killed between the file and its record."""
    target = tmp_path / "a-bt1.jsonl"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "describe", killed)
        with pytest.raises(KeyboardInterrupt):
            make(examples_of(3), target)
    before = target.stat().st_mtime_ns
    assert not finished(target, plan())
    record, rows = make(examples_of(3), target)
    assert target.stat().st_mtime_ns == before
    assert record.counts["outputs"] == len(rows) == 9
    assert finished(target, plan())
