"""Which examples meet in a batch, and that each takes part in an epoch."""

import gc
import multiprocessing
import time
from collections import Counter

import numpy as np
import pytest
import torch
from fairseq.data import SortDataset
from hypothesis import given
from hypothesis import strategies as st

from fairseq_scl.tasks.batching import EpochOrderDataset, epoch_order
from helpers.training import toy_model

# The last batch of four is smaller.
DATA = {"sizes": {"train": 22, "valid": 10}, "words": None, "weights": (3, 1)}


def epochs(task, count=3, first=1):
    """Load the training split; return the ids of each batch of ``count`` epochs."""
    task.load_dataset("train")
    found = []
    for epoch in range(first, first + count):
        iterator = task.get_batch_iterator(
            task.dataset("train"),
            max_sentences=4,
            max_positions=task.max_positions(),
            seed=1,
            epoch=epoch,
        )
        found.append([b["id"].tolist() for b in iterator.next_epoch_itr(shuffle=True)])
    return found


def members(batches):
    """Forget the order of batches and of examples in them."""
    return {frozenset(batch) for batch in batches}


def test_fixed_batches_are_those_of_stock_fairseq(data):
    stock = toy_model([data, "--task", "sentence_prediction"]).task
    ours = toy_model([data, "--batching", "fixed"]).task
    assert epochs(ours) == epochs(stock)
    assert type(ours.dataset("train")) is SortDataset


def test_fixed_is_the_default_and_the_same_examples_meet_in_every_epoch(data):
    first, second, third = epochs(toy_model([data]).task)
    assert members(first) == members(second) == members(third)
    assert first != second


@pytest.mark.parametrize("batching", ["reshuffled", "balanced"])
@pytest.mark.parametrize("flags", [[], ["--no-shuffle"]])
def test_other_batchings_draw_new_batches_in_every_epoch(data, batching, flags):
    task = toy_model([data, "--batching", batching, *flags]).task
    first, second, third = epochs(task)
    assert not members(first) & members(second) & members(third)
    for batches in (first, second, third):
        assert sorted(i for batch in batches for i in batch) == list(range(22))
        assert sorted(map(len, batches)) == [2, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("batching", ["reshuffled", "balanced"])
def test_the_same_seed_and_epoch_give_the_same_batches(data, batching):
    flags = [data, "--batching", batching]
    whole = epochs(toy_model(flags).task)
    assert epochs(toy_model(flags).task) == whole
    # A run that resumes in epoch 2 has never seen epoch 1.
    assert epochs(toy_model(flags).task, count=2, first=2) == whole[1:]
    assert epochs(toy_model([*flags, "--seed", "2"]).task) != whole


def test_only_the_training_split_is_reordered(data):
    task = toy_model([data, "--batching", "reshuffled"]).task
    assert type(task.load_dataset("valid")) is SortDataset


def test_the_training_split_is_that_of_train_subset(data):
    flags = ["--train-subset", "valid", "--batching", "reshuffled"]
    task = toy_model([data, *flags, "--contrastive-batch", "3"]).task
    longest = {}
    for split in ("train", "valid"):
        loaded = task.load_dataset(split)
        batches = task.get_batch_iterator(loaded, max_sentences=4)
        longest[split] = max(map(len, batches.frozen_batches))
    assert type(task.dataset("valid")) is EpochOrderDataset
    assert type(task.dataset("train")) is SortDataset
    assert longest == {"train": 4, "valid": 3}


def test_examples_keep_their_labels_and_sentences(data):
    fixed, balanced = (
        toy_model([data, "--batching", how]).task for how in ("fixed", "balanced")
    )
    for task in (fixed, balanced):
        task.load_dataset("train")
    everything = list(range(22))
    batches = [
        task.dataset("train").collater([task.dataset("train")[i] for i in everything])
        for task in (fixed, balanced)
    ]
    for key in ("id", "target", "ntokens"):
        assert np.array_equal(batches[0][key], batches[1][key])
    tokens = [batch["net_input"]["src_tokens"] for batch in batches]
    assert torch.equal(*tokens)


LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


@given(LABELS, st.booleans(), st.integers(0, 1000), st.integers(1, 50))
def test_an_epoch_visits_every_example_once(labels, balanced, seed, epoch):
    order = epoch_order(labels, balanced, seed, epoch)
    assert sorted(order) == list(range(len(labels)))
    assert np.array_equal(order, epoch_order(labels, balanced, seed, epoch))


@given(LABELS, st.integers(0, 1000), st.integers(1, 50), st.integers(1, 20))
def test_balanced_batches_hold_each_class_in_its_share(labels, seed, epoch, size):
    """Within 1 for two classes; 1 + (C - 2) · share for C of them.

    Between two places of the epoch the count of a class differs from its expected
    number by less than 1, and the errors of the C classes must cancel in the batch.
    """
    ordered = labels[epoch_order(labels, True, seed, epoch)]
    counts = Counter(labels.tolist())
    for start in range(len(labels) - size + 1):
        batch = Counter(ordered[start : start + size].tolist())
        for label, count in counts.items():
            share = count / len(labels)
            bound = 1 + max(len(counts) - 2, 0) * share
            assert abs(batch[label] - share * size) <= bound + 1e-9


def test_balanced_batches_of_two_even_classes_are_even():
    labels = np.array([0, 1] * 40)
    for epoch in range(1, 20):
        ordered = labels[epoch_order(labels, True, 1, epoch)].reshape(-1, 16)
        assert (ordered.sum(axis=1) == 8).all()


def test_the_workers_of_reshuffled_batches_end_with_their_epoch(data):
    task = toy_model([data, "--batching", "reshuffled"]).task
    task.load_dataset("train")
    settings = {"max_sentences": 4, "num_workers": 2, "data_buffer_size": 2}
    batches = task.get_batch_iterator(task.dataset("train"), **settings)
    others = multiprocessing.active_children()
    gc.disable()  # it would end them sooner or later
    try:
        assert len(list(batches.next_epoch_itr(shuffle=True))) == 6
        end = time.monotonic() + 10
        while left := [p for p in multiprocessing.active_children() if p not in others]:
            assert time.monotonic() < end, left
            time.sleep(0.02)
    finally:
        gc.enable()


def test_reshuffled_batches_are_not_balanced():
    labels = np.array([0, 1] * 40)
    found = {
        int(count)
        for epoch in range(1, 20)
        for count in labels[epoch_order(labels, False, 1, epoch)]
        .reshape(-1, 16)
        .sum(axis=1)
    }
    assert len(found) > 4


def test_balanced_pairs_examples_of_a_class_at_random():
    """Which examples of a class meet changes, not only which batches come first."""
    labels = np.array([0, 1] * 8)
    partners = Counter()
    for epoch in range(1, 400):
        order = epoch_order(labels, True, 1, epoch)[:4]
        partners[tuple(sorted(order[labels[order] == 0]))] += 1
    assert len(partners) == 28  # all pairs of the eight examples of class 0


def test_balanced_epochs_begin_with_either_class():
    """Also where the file is sorted by label: where a class begins is drawn, too."""
    labels = np.array([0] * 8 + [1] * 8)
    first = [labels[epoch_order(labels, True, 1, e)[0]] for e in range(1, 101)]
    assert 30 < sum(first) < 70


@pytest.mark.parametrize("batching", ["fixed", "balanced"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_every_example_is_used_for_any_batch_size_multiple(data, batching, multiple):
    task = toy_model([data, "--batching", batching]).task
    for split, size in (("train", 22), ("valid", 10)):
        task.load_dataset(split)
        iterator = task.get_batch_iterator(
            task.dataset(split),
            max_sentences=16,
            max_positions=task.max_positions(),
            required_batch_size_multiple=multiple,
        )
        batches = iterator.next_epoch_itr(shuffle=False)
        ids = sorted(int(i) for batch in batches for i in batch["id"])
        assert ids == list(range(size))
