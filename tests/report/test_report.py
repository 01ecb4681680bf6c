"""Tables and pictures: known text, and the same bytes for the same input."""

import math
import struct

import numpy as np
from msgspec.structs import replace

from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.experiments.statistics import paired_difference
from fairseq_scl.report.figures import learning_curves, tsne_comparison
from fairseq_scl.report.table import (
    comparison_table,
    in_words,
    mean_and_std,
    run_rows,
    signature,
)


def make_record(test_correct, seed=0, scl_lambda=0.0):
    """A record of two validations, of which the first is the best."""
    return Record(
        settings={
            "seed": seed,
            "scl_lambda": scl_lambda,
            "scl_temperature": 0.3,
            "updates": 60,
            "batch_size": 16,
            "batching": "fixed",
            "learning_rate": 1e-5,
            "device": "cpu",
        },
        valid=[Validation(30, 440, 500, 0.4, 2.1), Validation(60, 420, 500, 0.5, 2.0)],
        test=[
            Validation(30, test_correct, 500, 0.45, 2.2),
            Validation(60, 499, 500, 0.5, 2.1),
        ],
        seconds=61.234,
        argv=[],
        origin={
            "versions": {"torch": "2.9", "fairseq-fixed": "0.12.3.1"},
            "sha256": {"data": "0123456789abcdef", "encoder": "fedcba9876543210"},
        },
    )


def make_records(*pairs):
    return {
        "CE": [make_record(ce, seed) for seed, (ce, _) in enumerate(pairs)],
        "CE+SCL": [make_record(scl, seed, 0.9) for seed, (_, scl) in enumerate(pairs)],
    }


def size_of_png(path):
    """Return width and height as the file's header states them."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


def blobs(distance, count=30, width=8):
    """Two clusters of features around opposite poles, and their labels."""
    random = np.random.default_rng(0)
    centre = np.zeros(width)
    centre[0] = distance
    near = random.normal(size=(count, width)) * 0.1
    matrix = np.concatenate([near + centre, near - centre]).astype(np.float32)
    return matrix, ["a"] * count + ["b"] * count


def test_known_table():
    records = make_records((350, 360), (340, 345), (345, 365))
    assert comparison_table(records) == (
        "| loss | sample 0 | sample 1 | sample 2 | mean ± std |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| CE | 70.0 | 68.0 | 69.0 | 69.0 ± 1.0 |\n"
        "| CE+SCL | 72.0 | 69.0 | 73.0 | 71.3 ± 2.1 |\n"
        "\n"
        "CE+SCL against CE: +2.33 points, 95% interval -1.46 to +6.13 (paired t, n = 3)"
        ", p = 0.118 (t), 0.250 (Wilcoxon); better on 3 of 3 samples"
    )


def test_table_of_one_sample_has_no_interval():
    assert comparison_table(make_records((350, 349))).splitlines()[2:] == [
        "| CE | 70.0 | 70.0 |",
        "| CE+SCL | 69.8 | 69.8 |",
        "",
        "CE+SCL against CE: -0.20 points on one sample; an interval needs two",
    ]


def test_every_further_loss_is_compared_with_the_first():
    records = make_records((350, 360), (340, 345))
    records["other"] = records["CE"]
    last = comparison_table(records).splitlines()[-1]
    assert last == (
        "other against CE: +0.00 points, 95% interval +0.00 to +0.00 (paired t, n = 2)"
        ", p = 1.000 (t), 1.000 (Wilcoxon); better on 0 of 2 samples"
    )


def test_tables_read_the_test_set_at_the_best_validation():
    """The later point has 499 correct answers on the test set: it must not count."""
    assert "99.8" not in comparison_table(make_records((350, 360), (340, 345)))


def test_mean_and_std_are_printed_to_one_digit():
    assert mean_and_std([69.0, 71.0]) == "70.0 ± 1.4"
    assert mean_and_std([69.04]) == "69.0"


def test_words_tell_sign_interval_and_level():
    words = in_words(paired_difference([70, 71, 72], [69, 69, 71], level=0.9), won=0)
    assert words.startswith(
        "-1.33 points, 90% interval -2.31 to -0.36 (paired t, n = 3)"
    )


def test_one_row_a_run_with_exact_counts():
    rows = run_rows(make_records((350, 360), (340, 345)))
    assert [row["loss"] for row in rows] == ["CE", "CE", "CE+SCL", "CE+SCL"]
    assert rows[2] == {
        "loss": "CE+SCL",
        "sample": 0,
        "seed": 0,
        "scl_lambda": 0.9,
        "scl_temperature": 0.3,
        "best_update": 30,
        "valid_correct": 440,
        "valid_total": 500,
        "test_correct": 360,
        "test_total": 500,
        "seconds": 61.2,
    }


def test_signature_tells_how_a_table_was_made():
    assert signature(make_record(1, scl_lambda=0.9), samples=3) == (
        "samples:3|updates:60|batch:16|batching:fixed|lr:1e-05|lambda:0.9|tau:0.3|"
        "device:cpu|torch:2.9|fairseq:0.12.3.1|fairseq-scl:None|data:01234567|"
        "encoder:fedcba98"
    )


def test_learning_curves_are_a_picture_with_the_same_bytes_each_time(tmp_path):
    records = make_records((350, 360), (340, 345), (345, 365))
    for name in ("one.png", "two.png"):
        learning_curves(records, tmp_path / name)
    assert size_of_png(tmp_path / "one.png") == (1200, 360)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    learning_curves(make_records((350, 360), (340, 245)), tmp_path / "three.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "three.png").read_bytes()


def test_curves_of_one_validation_and_one_run_are_drawn(tmp_path):
    record = make_record(350)
    short = replace(record, valid=record.valid[:1], test=record.test[:1])
    learning_curves({"CE": [short]}, tmp_path / "curves.png")
    assert size_of_png(tmp_path / "curves.png") == (1200, 360)


def test_tsne_is_a_picture_with_the_same_bytes_each_time(tmp_path):
    matrix, labels = blobs(1)
    pictures = []
    for name in ("one.png", "two.png"):
        tsne_comparison({"CE": matrix, "CE+SCL": matrix * 2}, labels, tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert size_of_png(tmp_path / "one.png") == (1000, 480)
    assert pictures[0] == pictures[1]
    tsne_comparison(
        {"CE": matrix, "CE+SCL": matrix}, labels, tmp_path / "one.png", seed=1
    )
    assert (tmp_path / "one.png").read_bytes() != pictures[0]


def test_silhouette_tells_separated_from_mixed(tmp_path):
    apart, labels = blobs(10)
    mixed, _ = blobs(0)
    scores = tsne_comparison(
        {"apart": apart, "mixed": mixed}, labels, tmp_path / "tsne.png"
    )
    assert scores["apart"] > 0.99
    assert abs(scores["mixed"]) < 0.1


def test_tsne_of_few_examples_and_of_one_model_is_drawn(tmp_path):
    matrix, labels = blobs(10, count=2)
    scores = tsne_comparison({"CE": matrix}, labels, tmp_path / "tsne.png")
    assert size_of_png(tmp_path / "tsne.png") == (500, 480)
    assert math.isfinite(scores["CE"])
