"""What the task refuses: damaged data, other checkpoints, wrong special tokens."""

import json
import shutil

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics
from fairseq.tasks import setup_task

from fairseq_scl.errors import InputError
from fairseq_scl.input_format import KEY, InputFormat
from fairseq_scl.tasks.checks import HEADS, POSITIONS
from fairseq_scl.typed import as_type
from helpers.objectives import objective_case
from helpers.refusals import refused
from helpers.training import command_line, configure, toy_model, write_rows

# The last batch of four is smaller.
DATA = {"sizes": {"train": 22, "valid": 10}, "words": None, "weights": (3, 1)}


@pytest.fixture
def copied(data, tmp_path):
    """A copy of the data, to be damaged."""
    return shutil.copytree(data, tmp_path / "bin")


# Data


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


def test_regression_without_numbers_is_refused(copied):
    flags = ["--criterion", "sentence_prediction", "--regression-target"]
    task = toy_model([copied, *flags, "--num-classes", "1"]).task
    with refused("--regression-target", f"{copied}/label/valid.label"):
        task.load_dataset("valid")
    (copied / "label" / "valid.label").write_text("0.5\n" * 10)
    assert task.load_dataset("valid")[0]["target"] == [0.5]


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


# Options


CHUNK = "--contrastive-batch 8 --chunk 4"
BERT = "--arch roberta_bert"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--num-classes -1", "--num-classes is -1; at least 2"),
        ("--batching sorted", "--batching is 'sorted'; fixed, reshuffled, balanced"),
        ("--contrastive-batch 0", "--contrastive-batch is 0: it must be at least 1"),
        (f"{CHUNK} --chunk -1", "--chunk is -1: it must be 0 (off) or above"),
        ("--chunk 4", "--chunk is 4, but --contrastive-batch is missing"),
        (
            f"{CHUNK} --criterion sentence_prediction",
            "--chunk needs --criterion sentence_prediction_scl, not SentencePrediction",
        ),
        (f"{CHUNK} --quant-noise-scalar 0.1", "--chunk; --quant-noise-scalar"),
        (f"{CHUNK} --encoder-layerdrop 0.5", "--chunk; --encoder-layerdrop, which"),
        (f"{CHUNK} --quant-noise-pq 0.1", "--chunk; --quant-noise-pq"),
        (f"{CHUNK} --spectral-norm-classification-head", "--chunk; --spectral-norm"),
        (
            "--gather-features --task sentence_prediction",
            "--gather-features needs --task sentence_prediction_scl",
        ),
        ("--cuda-graphs", "--cuda-graphs needs --packed"),
        (
            f"--cuda-graphs --packed {BERT} --head-pooling mean",
            "--cuda-graphs needs --head-pooling cls",
        ),
        (f"--cuda-graphs --packed {CHUNK}", "--cuda-graphs; --chunk"),
        (
            "--cuda-graphs --packed --encoder-layerdrop 0.1",
            "--cuda-graphs; --encoder-layerdrop",
        ),
        (
            "--scl-views --gather-features",
            "--gather-features cannot be combined with --scl-views",
        ),
        (f"--scl-views {CHUNK}", "--chunk 4 cannot be combined with --scl-views"),
        (
            "--scl-views --task sentence_prediction",
            "--scl-views needs --task sentence_prediction_scl",
        ),
        *[
            (f"{BERT} --layer-norm-eps {value}", "--layer-norm-eps; must be above 0")
            for value in ("0", "-0.5", "nan")
        ],
        (f"{BERT} --head-pooling max", "--head-pooling; 'max'"),
        objective_case(
            "multi_exit",
            "--arch roberta_multi_exit --head-pooling mean",
            "--head-pooling; --exit-pooling",
        ),
    ],
)
def test_options_that_cannot_be_or_do_not_go_together_are_named(data, flags, words):
    with refused(*words.split("; ")):
        toy_model([data, *flags.split()])


# Checkpoints


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
    with refused("the checkpoint does not match", *words.split("; ")):
        toy_model([data]).model.load_state_dict(other)


def test_an_encoder_may_have_more_positions_than_the_model(data):
    state = toy_model([data, "--max-positions", "64"]).model.state_dict()
    encoder = {n: t for n, t in state.items() if not n.startswith(HEADS)}
    model = toy_model([data]).model
    model.load_state_dict(encoder)
    assert torch.equal(model.state_dict()[POSITIONS], encoder[POSITIONS][:34])


def test_its_own_checkpoint_and_a_bare_encoder_are_accepted(data):
    toy = toy_model([data])
    state = toy.model.state_dict()
    other = toy_model([data], seed=1).model
    other.load_state_dict(dict(state))
    torch.testing.assert_close(dict(other.state_dict()), dict(state), rtol=0, atol=0)
    without_head = {k: v for k, v in state.items() if "classification_heads" not in k}
    other.load_state_dict(without_head)


# What is not a number


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(data, value):
    toy = toy_model([data])
    state = {name: w.clone() for name, w in toy.model.state_dict().items()}
    state["encoder.sentence_encoder.layers.1.fc1.bias"][3] = value
    with pytest.raises(InputError, match=r"the checkpoint has .*fc1\.bias"):
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
    data, *flags = arguments
    line = command_line(["data", *flags])
    at = line.index("--init-token")
    return setup_task(configure(data, [*line[:at], *line[at + 2 :]]).task)


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
