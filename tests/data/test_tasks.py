"""The table of tasks says what the paper and the official archives say."""

import re

import pytest

from fairseq_scl.data.tasks import HELD_OUT, TASKS, TRAIN, find_task
from helpers.refusals import refused

# Table 1 of the paper, and the two tasks of Table 7.
TABLE_1 = {
    "SST-2": ("67k", 2, 1),
    "CoLA": ("8.5k", 2, 1),
    "MRPC": ("3.7k", 2, 2),
    "RTE": ("2.5k", 2, 2),
    "QNLI": ("105k", 2, 2),
    "MNLI": ("393k", 3, 2),
    "Amazon-2": ("", 2, 1),
    "Yelp-2": ("", 2, 1),
}


def test_the_tasks_are_those_of_the_paper():
    assert list(TASKS) == list(TABLE_1)
    for name, (_, classes, sentences) in TABLE_1.items():
        task = TASKS[name]
        assert len(set(task.layout.labels.values())) == classes
        assert len(task.layout.sentences) == sentences
        assert task.files.keys() == task.rows.keys() == {TRAIN, HELD_OUT}


@pytest.mark.parametrize("name", [name for name, (size, *_) in TABLE_1.items() if size])
def test_row_counts_are_those_of_table_1(name):
    """Within the last digit printed: 8,551 of CoLA are 8.5k there, and 3,668 3.7k."""
    printed = TABLE_1[name][0].removesuffix("k")
    unit = 1000 / 10 ** len(printed.partition(".")[2])
    assert abs(TASKS[name].rows[TRAIN] - 1000 * float(printed)) < unit


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_download_has_a_size_and_a_checksum(task):
    assert task.downloads
    for file in task.downloads:
        assert file.bytes > 0
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.url.startswith("https://")
        assert file.url.endswith(f"/{file.name}")


def test_sentiment_tasks_share_their_classes():
    """Table 7 puts the head of SST-2 on the reviews: class ids must agree."""
    names = {tuple(sorted(TASKS[t].layout.labels.values())) for t in TABLE_1}
    assert ("negative", "positive") in names
    for name in ("SST-2", "Amazon-2", "Yelp-2"):
        low, high = sorted(TASKS[name].layout.labels)
        assert TASKS[name].layout.labels[low] == "negative"
        assert TASKS[name].layout.labels[high] == "positive"


def test_an_unknown_task_is_refused_with_the_known_ones():
    with refused("'SST2'", "SST-2, CoLA, MRPC, RTE, QNLI, MNLI, Amazon-2, Yelp-2"):
        find_task("SST2")
