"""The task: which examples meet in a batch, and what data it refuses."""

import gc
import json
import multiprocessing
import shutil
import time
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import options
from fairseq.data import Dictionary, SortDataset, indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.tasks import setup_task
from hypothesis import given
from hypothesis import strategies as st

from fairseq_scl.errors import InputError
from fairseq_scl.input_format import KEY, InputFormat, label_names
from fairseq_scl.tasks.batching import epoch_order
from fairseq_scl.tasks.checks import HEADS, POSITIONS
from fairseq_scl.tasks.counts import ClassNumbers, answers_of
from fairseq_scl.typed import as_type
from helpers.objectives import objective_case
from helpers.refusals import refused
from helpers.training import command_line, make_data, toy_model, write_rows

# The last batch of four is smaller.
DATA = {"sizes": {"train": 22, "valid": 10}, "words": None, "weights": (3, 1)}

HEAD = "sentence_classification_head"


@pytest.fixture
def copied(data, tmp_path):
    """A copy of the data, to be damaged."""
    return shutil.copytree(data, tmp_path / "bin")


def epochs(task, count=3, first=1, seed=1):
    """Load the training split; return the ids of each batch of ``count`` epochs."""
    task.load_dataset("train")
    found = []
    for epoch in range(first, first + count):
        iterator = task.get_batch_iterator(
            task.dataset("train"),
            max_sentences=4,
            max_positions=task.max_positions(),
            seed=seed,
            epoch=epoch,
        )
        found.append([b["id"].tolist() for b in iterator.next_epoch_itr(shuffle=True)])
    return found


def members(batches):
    """Forget the order of batches and of examples in them."""
    return {frozenset(batch) for batch in batches}


# Batches


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
        partners.update(tuple(sorted(order[labels[order] == 0])) for _ in "x")
    assert len(partners) == 28  # all pairs of the eight examples of class 0


def test_balanced_epochs_begin_with_either_class():
    """Also where the file is sorted by label: where a class begins is drawn, too."""
    labels = np.array([0] * 8 + [1] * 8)
    first = [labels[epoch_order(labels, True, 1, e)[0]] for e in range(1, 101)]
    assert 30 < sum(first) < 70


# Labels


@pytest.mark.parametrize("weights", [(8, 1, 1), (1, 1, 8)])
def test_class_ids_and_names_go_together_when_classes_are_skewed(tmp_path, weights):
    """fairseq-preprocess sorts labels by frequency, so ids differ between samples."""
    folder = make_data(tmp_path / "bin", {"train": 40}, classes=3, weights=weights)
    truth = _label_words(folder)
    dictionary = Dictionary()
    for word in truth:
        dictionary.add_symbol(word)
    dictionary.finalize(padding_factor=8)
    dictionary.save(str(folder / "label" / "dict.txt"))
    rows = [[dictionary.index(word)] for word in truth]
    write_rows(folder / "label" / "train", rows, dictionary)

    task = toy_model([folder, "--num-classes", "3"]).task
    names = label_names(task.label_dictionary.symbols)
    assert names == [word for word, _ in Counter(sorted(truth)).most_common()]
    plain = task.load_dataset("train").dataset
    found = [names[plain[i]["target"].item()] for i in range(len(plain))]
    assert found == truth


def _label_words(folder):
    dictionary = Dictionary.load(str(folder / "label" / "dict.txt"))
    rows = indexed_dataset.make_dataset(str(folder / "label" / "train"), impl="mmap")
    return [dictionary[int(rows[i][0])] for i in range(len(rows))]


def test_pairs_are_joined(tmp_path):
    folder = make_data(tmp_path / "bin", {"train": 8}, pairs=True)
    batch = toy_model([folder, "--separator-token", "2"]).batch(8)
    tokens = batch["net_input"]["src_tokens"]
    assert (tokens[:, 0] == 0).all()
    assert ((tokens == 2).sum(dim=1) == 3).all()  # a </s> </s> b </s>


# Data that is refused


# Rows of token ids that take the place of the training labels.
LABEL_ROWS = {
    "unknown label": [[4]] * 6 + [[3]] + [[5]] * 15,
    "label beyond the dictionary": [[4]] * 2 + [[6]] + [[5]] * 19,
    "label of two words": [[4]] * 4 + [[4, 5]] + [[5]] * 17,
    "empty label": [[4]] * 3 + [[]] + [[5]] * 18,
    "fewer labels": [[4]] * 21,
}


def damage(folder, how):
    """Do to a data folder what can go wrong."""
    rows, part = LABEL_ROWS.get(how), "label"
    if how == "fewer second sentences":
        shutil.copytree(folder / "label", folder / "input1")
        rows, part = [[5]] * 21, "input1"
    if rows is not None:
        dictionary = Dictionary.load(str(folder / "label" / "dict.txt"))
        write_rows(folder / part / "train", rows, dictionary)
    elif how == "second sentences of one split":
        shutil.copytree(folder / "input0", folder / "input1")
        (folder / "input1" / "train.idx").unlink()
    else:
        (folder / how).unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("unknown label", "label/train, line 7; label/dict.txt"),
        ("label beyond the dictionary", "label/train, line 3; label/dict.txt"),
        ("label of two words", "label/train, line 5; 2 words"),
        ("empty label", "label/train, line 4; 0 words"),
        ("fewer labels", "label/train has 21 lines; input0/train has 22"),
        ("fewer second sentences", "input1/train has 21 lines; input0/train has 22"),
        ("second sentences of one split", "missing; 'train'; input1/train.idx"),
        ("input0/train.bin", "missing; 'train'; input0/train.bin"),
        ("label/train.idx", "missing; 'train'; label/train.idx"),
        ("input0/dict.txt", "missing; input0/dict.txt; fairseq-scl prepare"),
        ("label/dict.txt", "missing; label/dict.txt; fairseq-scl prepare"),
    ],
)
def test_damaged_data_is_named(copied, how, words):
    damage(copied, how)
    with refused(copied, *words.split("; ")):
        toy_model([copied]).task.load_dataset("train")


def test_an_example_that_is_too_long_is_named(data):
    task = toy_model([data]).task
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    lengths = [int(dataset.size(i)) for i in range(len(dataset))]
    first = next(i for i, n in enumerate(lengths) if n > 4)
    count = sum(n > 4 for n in lengths)
    message = (
        f"input0/valid, line {first + 1}: {lengths[first]} tokens, but the model reads "
        rf"at most 4 \(examples that are too long: {count}\); cut them with "
        "--shorten-method truncate"
    )
    with pytest.raises(InputError, match=message):
        task.get_batch_iterator(dataset, max_sentences=4, max_positions=4)
    left = task.get_batch_iterator(
        dataset, max_sentences=4, max_positions=4, ignore_invalid_inputs=True
    )
    ids = [i for batch in left.next_epoch_itr(shuffle=False) for i in batch["id"]]
    assert sorted(map(int, ids)) == [i for i, n in enumerate(lengths) if n <= 4]


def test_a_missing_number_of_classes_is_named(data):
    with refused("--num-classes is -1", "at least 2"):
        toy_model([data, "--num-classes", "-1"])


def test_an_unknown_batching_is_named(data):
    with refused("--batching is 'sorted'", "fixed, reshuffled, balanced"):
        toy_model([data, "--batching", "sorted"])


# Checkpoints that are refused


LAYER = "encoder.sentence_encoder.layers.{}.fc1.bias is "


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--encoder-layers 3", f"--arch; {LAYER.format(2)}(32,); absent in the model"),
        ("--encoder-layers 1", f"--arch; {LAYER.format(1)}absent; (32,) in the model"),
        ("--encoder-embed-dim 32", "--arch; encoder.sentence_encoder."),
        ("--max-positions 16", f"--max-positions; {POSITIONS}; (18, 16); (34, 16)"),
        # A classifier, whose training would resume.
        ("--max-positions 64", f"{POSITIONS}; (66, 16); (34, 16)"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_named(data, flags, words):
    other = toy_model([data, *flags.split()]).model.state_dict()
    with refused("--restore-file", *words.split("; ")):
        toy_model([data]).model.load_state_dict(other)


def test_an_encoder_may_have_more_positions_than_the_model(data):
    state = toy_model([data, "--max-positions", "64"]).model.state_dict()
    encoder = {n: t for n, t in state.items() if not n.startswith(HEADS)}
    model = toy_model([data]).model
    model.load_state_dict(encoder)
    assert torch.equal(model.state_dict()[POSITIONS], encoder[POSITIONS][:34])


def test_a_checkpoint_of_another_vocabulary_is_named(data, tmp_path):
    larger = make_data(tmp_path / "bin", {"train": 4}, words=40)
    other = toy_model([larger]).model.state_dict()
    with refused("--restore-file has 45 symbols", "has 20", "prepare --encoder"):
        toy_model([data]).model.load_state_dict(other)


def test_its_own_checkpoint_and_a_bare_encoder_are_accepted(data):
    toy = toy_model([data])
    state = toy.model.state_dict()
    other = toy_model([data], seed=1).model
    other.load_state_dict(dict(state))
    torch.testing.assert_close(dict(other.state_dict()), dict(state), rtol=0, atol=0)
    without_head = {k: v for k, v in state.items() if "classification_heads" not in k}
    other.load_state_dict(without_head)


# The file of metrics


def write_metrics(task, subset, n_correct):
    """Do what fairseq does after it has validated a subset."""
    task.dataset(subset)
    meters = {
        "n_correct": SimpleNamespace(sum=torch.tensor(n_correct)),
        "n_total": SimpleNamespace(sum=10),
        "scl_loss": SimpleNamespace(avg=torch.tensor(1.25)),
        "loss": SimpleNamespace(avg=torch.tensor(3.0)),
    }
    task.post_validate(None, {"num_updates": 7}, meters)


def test_each_validation_appends_a_line(data, tmp_path):
    file = tmp_path / "a folder" / "metrics.jsonl"
    file.parent.mkdir()
    task = toy_model([data, "--metrics-file", file]).task
    for split in ("train", "valid"):
        task.load_dataset(split)
    assert file.read_text() == ""
    write_metrics(task, "valid", 6)
    write_metrics(task, "train", 9)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    common = {"n_total": 10, "scl_loss": 1.25, "update": 7}
    assert lines == [
        {"subset": "valid", "n_correct": 6, **common},
        {"subset": "train", "n_correct": 9, **common},
    ]


def test_no_file_is_written_without_the_flag(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = toy_model([data]).task
    task.load_dataset("valid")
    write_metrics(task, "valid", 6)
    assert not list(tmp_path.iterdir())


def test_a_metrics_file_that_cannot_be_written_is_named_before_training(data, tmp_path):
    file = tmp_path / "missing" / "metrics.jsonl"
    task = toy_model([data, "--metrics-file", file]).task
    with refused("--metrics-file", file, "No such file or directory"):
        task.load_dataset("train")


# Every example takes part, and every one is counted


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


def test_an_example_beyond_max_tokens_is_named(data):
    task = toy_model([data]).task
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    lengths = [int(dataset.num_tokens(i)) for i in range(len(dataset))]
    most = max(lengths) - 1
    longest = lengths.index(max(lengths))
    task.get_batch_iterator(dataset, max_tokens=most + 1)
    where = rf"input0/valid, line {longest + 1}: {most + 1} tokens.* at most {most} "
    with pytest.raises(InputError, match=f"{where}.*--max-tokens"):
        task.get_batch_iterator(dataset, max_tokens=most)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--criterion", "sentence_prediction"],
        objective_case(
            "multi_exit",
            [
                *["--criterion", "sentence_prediction_multi_exit", "--packed"],
                *["--arch", "roberta_multi_exit", "--exit-layers", "1,2"],
            ],
        ),
    ],
)
def test_a_validation_is_counted_for_every_criterion(data, flags):
    toy = toy_model([data, *flags])
    log = toy.task.valid_step(toy.batch(10, "valid"), toy.model, toy.criterion)[2]
    with metrics.aggregate() as logged:
        toy.task.reduce_metrics([log, log], toy.criterion)
    assert logged["n_total"].sum == 20
    assert logged["n_correct"].sum == 2 * log["ncorrect"]
    answers = answers_of(logged)
    assert sum(answers) == 20
    targets = toy.batch(10, "valid")["target"].flatten()
    if 20 in answers:
        assert logged["n_correct"].sum == 2 * (targets == answers.index(20)).sum()


@pytest.mark.parametrize(
    "criterion", ["sentence_prediction", "sentence_prediction_scl"]
)
def test_mcc_and_f1_use_the_class_ids_for_any_labels(data, criterion):
    flags = ["--criterion", criterion, "--report-mcc"]
    flags += ["--report-acc-and-f1"]
    toy = toy_model([data, *flags])
    batch = toy.batch(10, "valid")
    log = toy.task.valid_step(batch, toy.model, toy.criterion)[2]
    assert log["targ"] == batch["target"].flatten().tolist()
    assert sum(map(int.__eq__, log["pred"], log["targ"])) == log["ncorrect"]
    with metrics.aggregate() as logged:
        toy.task.reduce_metrics([log], toy.criterion)
    hits = sum(p and t for p, t in zip(log["pred"], log["targ"], strict=True))
    f1 = 200 * hits / max(1, sum(log["pred"]) + sum(log["targ"]))
    assert logged.get_smoothed_values()["f1"] == pytest.approx(f1, abs=0.06)


def test_labels_that_are_0_and_1_keep_their_numbers():
    assert ClassNumbers(["1", "0"]).string(torch.tensor([0, 1, 1])) == "1 0 0"
    assert ClassNumbers(["no", "yes"]).string(torch.tensor([0, 1, 1])) == "0 1 1"


def test_f1_of_three_classes_is_refused(tmp_path):
    folder = make_data(tmp_path / "bin", {"train": 4}, classes=3)
    flags = ["--num-classes", "3", "--report-acc-and-f1"]
    with pytest.raises(InputError, match=r"--report-acc-and-f1 .* the data has 3"):
        toy_model([folder, *flags])


# What is not a number


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(data, value):
    toy = toy_model([data])
    state = {name: w.clone() for name, w in toy.model.state_dict().items()}
    state["encoder.sentence_encoder.layers.1.fc1.bias"][3] = value
    with pytest.raises(InputError, match=r"--restore-file has .*fc1\.bias"):
        toy.model.load_state_dict(state)


@pytest.mark.parametrize("name", ["loss", "ce_loss", "scl_loss"])
def test_a_validation_that_is_not_a_number_ends_the_run(data, name):
    task = toy_model([data]).task
    task.load_dataset("valid")
    task.dataset("valid")
    with metrics.aggregate() as logged:
        metrics.log_scalar(name, float("nan"))
    with pytest.raises(InputError, match=f"{name} of valid is nan after 7 updates"):
        task.post_validate(None, {"num_updates": 7}, logged)


# The special tokens of a prepared folder


@pytest.fixture
def prepared(data, tmp_path):
    """A function that writes a manifest as ``prepare`` does for pairs or sentences."""

    def write(pair, separated):
        folder = shutil.copytree(data, tmp_path / "bin")
        if pair:
            shutil.copytree(folder / "input0", folder / "input1")
        manifest = {"pair": pair, "pair_separator": separated}
        manifest |= {"schema": 1, "examples": {}, "sha256": {"a": "1" * 64}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


def toy_task(arguments):
    """Build the task with the given flags for special tokens and no others."""
    line = command_line(arguments)
    at = line.index("--init-token")
    parser = options.get_training_parser()
    known = options.parse_args_and_arch(parser, line[:at] + line[at + 2 :])
    with warnings.catch_warnings():  # fairseq calls Hydra by its old names
        warnings.simplefilter("ignore")
        return setup_task(convert_namespace_to_omegaconf(known).task)


@pytest.mark.parametrize(
    ("pair", "separated", "expected"),
    [(False, True, (0, None)), (True, True, (0, 2)), (True, False, (0, None))],
)
def test_tokens_left_out_are_those_of_the_data(prepared, pair, separated, expected):
    task = toy_task([prepared(pair, separated)])
    assert (task.cfg.init_token, task.cfg.separator_token) == expected
    record = as_type(task.state_dict()[KEY], InputFormat, "here")
    assert (record.init_token, record.separator_token) == expected
    assert (record.pair, record.tokenizer) == (pair, {"a": "1" * 64})
    assert record.labels == ["label0", "label1"]


@pytest.mark.parametrize(
    ("flag", "token", "separated"),
    [
        ("--separator-token", 2, False),
        ("--separator-token", 0, True),
        ("--init-token", 2, True),
    ],
)
def test_tokens_other_than_those_of_the_data_are_refused(
    prepared, flag, token, separated
):
    with pytest.raises(InputError, match=f"{flag} is {token}, .*"):
        toy_task([prepared(True, separated), flag, str(token)])


@pytest.mark.parametrize(("flags", "token"), [([], 0), (["--init-token", "2"], 2)])
def test_the_default_init_token_is_the_start_symbol(data, flags, token):
    task = toy_task([data, *flags])
    assert task.cfg.init_token == task.state_dict()[KEY]["init_token"] == token


@pytest.mark.parametrize("splits", ["", "valid", "train,valid"])
def test_crops_at_random_places_are_refused_in_validation(data, splits):
    flags = ["--shorten-method", "random_crop", "--shorten-data-split-list"]
    with pytest.raises(InputError, match="--shorten-method is random_crop"):
        toy_task([data, *flags, splits])
    assert toy_task([data, *flags, "train,train1"])


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("input0/train.bin", b"", "train.bin has 0 bytes"),
        ("input0/train.idx", b"MMIDIDX\0\0", "train.idx is damaged"),
        ("input0/dict.txt", b"a\n", "input0/dict.txt"),
        ("label/dict.txt", b"\xff 1\n", "label/dict.txt"),
    ],
)
def test_damaged_files_of_a_data_folder_are_named(copied, name, content, named):
    (copied / name).write_bytes(content)
    with pytest.raises(InputError, match=named) as error:
        toy_task([copied]).load_dataset("train")
    assert "\n" not in str(error.value)
