"""Labels flipped on purpose: how many, which, seeded, and told in draw.json."""

import json
from collections import Counter

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarize import (
    DRAW,
    class_counts,
    read_examples,
    read_labels,
)
from fairseq_scl.data.flips import draw_flips
from fairseq_scl.errors import InputError
from helpers.encoders import ids_in, toy_encoder
from helpers.tasks import write, write_sst2

COUNTS = {"negative": 44, "positive": 56}


@pytest.mark.parametrize(
    ("count", "share", "flipped"),
    [
        (10, 0, 0),
        (44, 0.1, 4),
        (56, 0.1, 6),
        (45, 0.1, 5),  # halves go up
        (10, 0.35, 4),  # 3.5, although the float of 0.35 is below
        (4, 0.1, 0),
    ],
)
def test_the_same_share_of_each_class_is_flipped(count, share, flipped):
    flips = draw_flips({"a": count, "b": 7}, share, [0])
    assert len(flips["a"]) == flipped
    assert set(flips["a"]) <= set(range(count))
    assert set(flips["a"].values()) <= {"b"}


def test_new_labels_are_uniform_over_the_others():
    flips = draw_flips(dict.fromkeys("abc", 3000), 0.9, [1])
    for name in "abc":
        found = Counter(flips[name].values())
        assert set(found) == set("abc") - {name}
        assert all(abs(n - 1350) < 150 for n in found.values())  # std 26


def test_flips_are_seeded_and_nested():
    some, more = draw_flips(COUNTS, 0.1, [3]), draw_flips(COUNTS, 0.3, [3])
    assert some == draw_flips(COUNTS, 0.1, [3])
    assert some != draw_flips(COUNTS, 0.1, [4])
    for name in COUNTS:
        assert some[name].items() <= more[name].items()


@pytest.mark.parametrize(
    ("counts", "share", "message"),
    [
        (COUNTS, 1, "--flip-labels is 1: it must be 0 or a share below 1"),
        (COUNTS, -0.1, "--flip-labels is -0.1: it must be 0 or a share below 1"),
        (COUNTS, float("nan"), "--flip-labels is nan: it must be"),
        ({"a": 3}, 0.1, "--flip-labels needs two classes, but there is only 'a'"),
    ],
)
def test_what_cannot_be_flipped_is_refused(counts, share, message):
    with pytest.raises(InputError, match=message):
        draw_flips(counts, share, [0])


def labels(folder, split="train"):
    names = read_labels(folder)
    return [names[row[0] - 4] for row in ids_in(folder, "label", split)]


def prepared(folder, *words):
    argv = ["prepare", *map(str, words), "--encoder", str(toy_encoder()), "--to"]
    assert main([*argv, str(folder)]) == 0
    return folder


def test_folders_of_a_task_differ_only_in_the_listed_labels(tmp_path):
    glue = write_sst2(tmp_path / "glue")
    words = ["--task", "SST-2", "--from", glue, "--partial", "--size-valid", "8"]
    few = ["--few-shot", "30", "--full", "--samples", "2"]
    out = prepared(tmp_path / "out", *words, *few, "--flip-labels", "0", "0.1", "0.3")
    assert len(list(out.iterdir())) == 9
    plain = prepared(tmp_path / "plain", *words, *few)
    for name in ("full", "n30-sample0", "n30-sample1"):
        assert "flipped" not in json.loads((out / name / DRAW).read_text())
        assert (out / name / DRAW).read_text() == (plain / name / DRAW).read_text()
        for share in (0.1, 0.3):
            folder = out / f"{name}-flip{share}"
            made = json.loads((folder / DRAW).read_text())["flipped"]
            assert made["share"] == share
            expected = labels(out / name)
            size = len(expected)
            assert len(made["rows"]) == sum(
                int(share * n + 0.5) for n in Counter(expected).values()
            )
            for row in made["rows"]:
                assert expected[row["row"]] == row["was"]
                expected[row["row"]] = row["is"]
            assert labels(folder) == expected
            assert class_counts(folder, "train") == Counter(expected)
            assert ids_in(folder, "input0") == ids_in(out / name, "input0")
            assert len({row["line"] for row in made["rows"]}) < size
            for split in ("valid", "test"):
                assert labels(folder, split) == labels(plain / name, split)
    flips = [
        json.loads((out / f"n30-sample{i}-flip0.3" / DRAW).read_text())["flipped"]
        for i in range(2)
    ]
    assert flips[0] != flips[1]


def test_lines_are_those_of_the_file_and_the_text_has_the_flipped_labels(tmp_path):
    glue = write_sst2(tmp_path / "glue")
    words = ["--task", "SST-2", "--from", glue, "--partial", "--few-shot", "30"]
    words += ["--samples", "1", "--flip-labels", "0.2"]
    folder = prepared(tmp_path / "out", *words) / "n30-sample0-flip0.2"
    lines = (glue / "SST-2" / "train.tsv").read_text().split("\n")
    for row in json.loads((folder / DRAW).read_text())["flipped"]["rows"]:
        was = {"0": "negative", "1": "positive"}[lines[row["line"] - 1].split("\t")[1]]
        assert row["was"] == was
    found = [example.label for example in read_examples(folder, "train")]
    assert found == labels(folder)


def test_your_own_table_is_flipped_too(tmp_path):
    rows = [f"{'good' if i % 3 else 'bad'} film {i}\t{'pns'[i % 3]}" for i in range(90)]
    table = write(tmp_path / "own.tsv", "text\tlabel", *rows)
    words = ["--table", table, "--columns", "text", "label", "--size-valid", "9"]
    out = prepared(tmp_path / "out", *words, "--flip-labels", "0.25")
    rows = json.loads((out / "full-flip0.25" / DRAW).read_text())["flipped"]["rows"]
    assert len(rows) == 3 * 6  # of 24 of each class
    assert Counter(row["was"] for row in rows) == dict.fromkeys("pns", 6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--task", "SST-2", "--from", "x", "--partial"],
            "--flip-labels is 1.5: it must be 0 or",
        ),
        (["--text", "x"], "--flip-labels needs --task or --table, not --text"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(tmp_path, refusal, words, message):
    write_sst2(tmp_path / "x")
    words = [str(tmp_path / "x") if word == "x" else word for word in words]
    argv = ["prepare", *words, "--encoder", toy_encoder(), "--to", tmp_path / "o"]
    assert message in refusal(*argv, "--flip-labels", "1.5")
