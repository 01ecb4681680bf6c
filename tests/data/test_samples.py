"""Splits and samples: sizes, shares, disjoint, seeded, proved by a manifest."""

import itertools
import json
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_scl.data.binarize import DRAW, read_examples
from fairseq_scl.data.files import sha256
from fairseq_scl.data.readers import own_table
from fairseq_scl.data.samples import Chosen, Draw, Source, line_ranges, prepare_samples
from fairseq_scl.data.splits import stratified_ranks, stratified_split
from fairseq_scl.data.tasks import TASKS
from fairseq_scl.data.texts import Example, digest
from fairseq_scl.errors import InputError
from helpers.encoders import toy_encoder
from helpers.outputs import contents
from helpers.refusals import refused
from helpers.tasks import write, write_sst2, write_yelp


def prepare(source, target, **draw):
    """Prepare; return counts and ``draw.json`` of each data folder by its name."""
    written = {}

    def note(folder, counts):
        drawn = json.loads((folder / DRAW).read_text("utf-8"))
        written[folder.name] = (counts, drawn)

    prepare_samples(source, toy_encoder(), target, Draw(**draw), note)
    return written


def sst2(folder, **sizes):
    return Source.of_task(TASKS["SST-2"], write_sst2(folder, **sizes))


def lines_of(drawn, split):
    found = []
    for part in drawn["splits"][split]["lines"].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def labels_at(path, lines):
    rows = path.read_text("utf-8").split("\n")
    return Counter(rows[line - 1].split("\t")[1] for line in lines)


def test_test_is_half_of_the_held_out_set_and_validation_from_the_rest(tmp_path):
    written = prepare(sst2(tmp_path), tmp_path / "out", partial=True, size_valid=9)
    counts, drawn = written["full"]
    assert counts == {"train": 60, "valid": 9, "test": 21}
    valid, test = lines_of(drawn, "valid"), lines_of(drawn, "test")
    assert not set(valid) & set(test)
    dev = tmp_path / "SST-2" / "dev.tsv"  # 14 negative and 27 positive
    assert labels_at(dev, test) == {"0": 7, "1": 14}
    assert labels_at(dev, valid) == {"0": 3, "1": 6}
    assert lines_of(drawn, "train") == list(range(2, 62))
    # By default the validation set is what the test set leaves, if that is less.
    counts, _ = prepare(sst2(tmp_path), tmp_path / "out", partial=True)["full"]
    assert counts == {"train": 60, "valid": 20, "test": 21}


def test_samples_have_the_shares_of_the_training_set_and_one_held_out(tmp_path):
    settings = {"few_shot": (6, 12), "samples": 3, "full": False, "partial": True}
    written = prepare(sst2(tmp_path), tmp_path / "out", **settings)
    assert list(written) == [f"n{n}-sample{k}" for n in (6, 12) for k in range(3)]
    train = tmp_path / "SST-2" / "train.tsv"
    samples = [lines_of(drawn, "train") for _, drawn in written.values()]
    assert len({tuple(lines) for lines in samples}) == 6
    for lines, (counts, drawn) in zip(samples, written.values(), strict=True):
        assert counts["train"] == len(lines)
        assert labels_at(train, lines) == {"0": len(lines) / 3, "1": len(lines) * 2 / 3}
        first = written["n6-sample0"][1]["splits"]
        assert drawn["splits"]["test"] == first["test"]
        assert drawn["splits"]["valid"] == first["valid"]
    names = [tmp_path / "out" / name / "input0" / "test.bin" for name in written]
    assert len({os.stat(name).st_ino for name in names}) == 1


def test_a_disk_without_hard_links_gets_copies(tmp_path, monkeypatch):
    settings = {"few_shot": (6,), "samples": 1, "partial": True}
    prepare(sst2(tmp_path), tmp_path / "linked", **settings)

    def refuse(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    prepare(sst2(tmp_path), tmp_path / "copied", **settings)
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")


def test_draw_json_proves_what_was_drawn(tmp_path):
    source = sst2(tmp_path)
    _, drawn = prepare(source, tmp_path / "out", partial=True)["full"]
    assert drawn["files"]["train"]["sha256"] == sha256(source.train.path)
    assert drawn["files"]["train"]["rows"] == 60
    assert drawn["files"]["held_out"]["classes"] == {"negative": 14, "positive": 27}
    lines = [f"{e.sentences[0]}\t{e.label}" for _, e in source.train]
    text = write(tmp_path / "text", *lines)
    assert drawn["splits"]["train"]["sha256"] == sha256(text)
    assert str(tmp_path) not in json.dumps(drawn)


def test_the_text_of_a_sample_is_that_of_its_lines(tmp_path):
    settings = {"few_shot": (12,), "samples": 2, "partial": True}
    source = sst2(tmp_path)
    written = prepare(source, tmp_path / "out", **settings)
    rows = {line: (e.sentences, e.label) for line, e in source.train}
    for name, (counts, drawn) in written.items():
        for split, count in counts.items():
            examples = read_examples(tmp_path / "out" / name, split)
            assert len(examples) == count
            assert digest(examples) == drawn["splits"][split]["sha256"]
        found = read_examples(tmp_path / "out" / name, "train")
        assert [(e.sentences, e.label) for e in found] == [
            rows[line] for line in lines_of(drawn, "train")
        ]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    source = sst2(tmp_path)
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        draw = {"few_shot": (6,), "samples": 1, "seed": seed, "partial": True}
        prepare(source, tmp_path / name, **draw)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    one, three = contents(tmp_path / "one"), contents(tmp_path / "three")
    assert one["n6-sample0/draw.json"] != three["n6-sample0/draw.json"]
    assert one["full/input0/train.bin"] == three["full/input0/train.bin"]


def test_reviews_can_be_balanced_and_their_test_small(tmp_path):
    source = Source.of_task(TASKS["Yelp-2"], write_yelp(tmp_path))
    settings = {"few_shot": (10,), "samples": 2, "full": False, "partial": True}
    written = prepare(
        source, tmp_path / "out", balanced=True, size_test=6, size_valid=4, **settings
    )
    counts, drawn = written["n10-sample1"]
    assert counts == {"train": 10, "valid": 4, "test": 6}
    odd = [line % 2 for line in lines_of(drawn, "train")]
    assert sum(odd) == 5
    assert drawn["balanced"] is True


def test_validation_and_test_sets_are_split_off_a_users_table(tmp_path):
    rows = [f"text {i}\t{'ab'[i % 4 == 0]}" for i in range(60)]
    table = own_table(write(tmp_path / "t.tsv", "s\tl", *rows), ["s", "l"])
    source = Source("t.tsv", table)
    written = prepare(source, tmp_path / "o", few_shot=(8,), samples=1, size_valid=12)
    counts, drawn = written["full"]
    assert counts == {"train": 36, "valid": 12, "test": 12}
    parts = [lines_of(drawn, split) for split in ("train", "valid", "test")]
    assert sorted(itertools.chain(*parts)) == list(range(2, 62))
    few = lines_of(written["n8-sample0"][1], "train")
    assert set(few) <= set(parts[0])
    assert labels_at(table.path, few) == {"a": 6, "b": 2}
    flags = "--size-test and --size-valid (500 each by default) cannot be 30 and 30"
    with refused(flags, "use 12 and 12, or provide your own splits with --text"):
        prepare(source, tmp_path / "o", size_valid=30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "train.tsv has 60 rows, but SST-2 has 67,349: download the complete"),
        ({"few_shot": (61,)}, "61 examples were asked for, but there are only 60"),
        ({"few_shot": (0,)}, "a sample of 0 examples: the size must be at least 1"),
        ({"few_shot": (1,)}, "a sample of 1 examples has none of the class 'negative'"),
        (
            {"few_shot": (5,), "balanced": True},
            "a balanced sample of 5 examples is not possible: 5 is not a multiple",
        ),
        (
            {"few_shot": (50,), "balanced": True},
            "of 50 examples needs 25 of the class 'negative', but there are only 20",
        ),
        ({"size_test": 42}, "samples of 42 + 1 examples were asked for"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_written(
    tmp_path, settings, message
):
    with refused(message):
        prepare(sst2(tmp_path), tmp_path / "out", **settings, partial=bool(settings))
    assert not (tmp_path / "out").exists()


def test_a_class_without_an_example_is_refused(tmp_path):
    source = sst2(tmp_path)
    write(source.train.path, "sentence\tlabel", "a\t1", "b\t1")
    with refused("tsv has no example of the class 'negative'"):
        prepare(source, tmp_path / "out", partial=True)
    write(source.train.path, "sentence\tlabel")
    with refused("train.tsv has no row"):
        prepare(source, tmp_path / "out", partial=True)


def test_bad_rows_leave_older_folders_as_they_were(tmp_path):
    source = sst2(tmp_path)
    prepare(source, tmp_path / "out", partial=True)
    before = contents(tmp_path / "out")
    write(source.held_out.path, "sentence\tlabel", "a\t1", "b\t0", "c")
    with refused("dev.tsv, line 4 has 1 column"):
        prepare(source, tmp_path / "out", partial=True)
    assert contents(tmp_path / "out") == before


@given(
    st.lists(st.sampled_from("abc"), min_size=12, max_size=80), st.integers(0, 2**31)
)
def test_ranks_choose_the_rows_that_indices_would(labels, seed):
    """The streamed rule and the rule in memory are the same draw."""
    counts, sizes = Counter(labels), [5, 4]
    try:
        expected = stratified_split(labels, sizes, seed)
    except InputError:
        return
    rows = [(i, Example((str(i),), label)) for i, label in enumerate(labels)]
    ranks = stratified_ranks(counts, sizes, seed)
    for drawn, indices in zip(ranks, expected, strict=True):
        assert [line for line, _ in Chosen(rows, counts, [drawn])] == indices
    rest = Chosen(rows, counts, ranks, invert=True)
    assert sorted(itertools.chain((i for i, _ in rest), *expected)) == list(
        range(len(labels))
    )


def test_balanced_samples_have_the_same_of_each_class():
    drawn = stratified_ranks({"a": 5, "b": 95}, [10], 0, balanced=True)[0]
    assert {label: len(np.unique(ranks)) for label, ranks in drawn.items()} == {
        "a": 5,
        "b": 5,
    }


def test_lines_are_written_as_ranges():
    assert line_ranges([2, 3, 4, 9, 11, 12]) == "2-4,9,11-12"
    assert line_ranges([]) == ""
