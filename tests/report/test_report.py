"""Pictures: the same bytes for the same input."""

import math
import struct

import numpy as np
from msgspec.structs import replace

from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.report.figures import learning_curves, tsne_grid


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
        grid = {("", "CE"): matrix, ("", "CE+SCL"): matrix * 2}
        tsne_grid(grid, labels, [tmp_path / name])
        pictures.append((tmp_path / name).read_bytes())
    assert size_of_png(tmp_path / "one.png") == (1000, 480)
    assert pictures[0] == pictures[1]
    tsne_grid(grid, labels, [tmp_path / "one.png"], seed=1)
    assert (tmp_path / "one.png").read_bytes() != pictures[0]


def test_silhouette_tells_separated_from_mixed(tmp_path):
    apart, labels = blobs(10)
    mixed, _ = blobs(0)
    grid = {("", "apart"): apart, ("", "mixed"): mixed}
    scores = tsne_grid(grid, labels, [tmp_path / "tsne.png"])
    assert scores["", "apart"] > 0.99
    assert abs(scores["", "mixed"]) < 0.1


def test_tsne_of_few_examples_and_of_one_model_is_drawn(tmp_path):
    matrix, labels = blobs(10, count=2)
    scores = tsne_grid({("", "CE"): matrix}, labels, [tmp_path / "tsne.png"])
    assert size_of_png(tmp_path / "tsne.png") == (500, 480)
    assert math.isfinite(scores["", "CE"])
