"""``fairseq-scl backtranslate``, and the script around it."""

import json
import os
import shutil
from functools import partial
from random import Random

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.samples import Draw, Source, prepare_samples
from fairseq_scl.data.tasks import TASKS
from fairseq_scl.data.texts import Example
from fairseq_scl.experiments.runner import run_training
from helpers import ROOT, run_process
from helpers.encoders import make_splits, toy_encoder, toy_run
from helpers.tasks import write, write_sst2
from helpers.translation import toy_models

ROWS = ["text\tlabel", "a b c\tgood", "\tbad", "d e\tbad", "f\tgood"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Both directions with BPE codes that merge nothing, as flags."""
    folder = tmp_path_factory.mktemp("models")
    for pair in ("en-de", "de-en"):
        shutil.copytree(toy_models(*pair.split("-")), folder / pair)
        (folder / pair / "bpecodes").write_text("#version: 0.2\nz z\n")
    return [
        *("--forward", str(folder / "en-de")),
        *("--backward", str(folder / "de-en" / "model.pt")),
        *("--device", "cpu"),
    ]


def run(*words):
    return main(["backtranslate", *map(str, words)])


def table(folder, *rows):
    return ["--table", write(folder / "own.tsv", *(rows or ROWS))]


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_table_is_augmented_at_each_temperature(tmp_path, models, capsys):
    words = [*table(tmp_path), "--columns", "text", "label", *models]
    words += ["--temperature", 0.3, 1, "--to", tmp_path / "to", "--copies", 2]
    assert run(*words) == 0
    told = capsys.readouterr()
    assert "own-bt0.3.jsonl: 8 outputs of 4 examples, " in told.out
    assert f"1 example empty: {tmp_path / 'own.tsv'}, line 3" in told.err
    assert "1 example without a text" in told.err
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
        "own-bt0.3.json",
        "own-bt0.3.jsonl",
        "own-bt1.json",
        "own-bt1.jsonl",
    ]
    rows = rows_of(tmp_path / "to" / "own-bt0.3.jsonl")
    assert [row["label"] for row in rows] == [
        *["good", "good", "bad", "bad", "bad", "bad", "good", "good"]
    ]
    record = json.loads((tmp_path / "to" / "own-bt1.json").read_text("utf-8"))
    assert record["settings"]["forward"]["temperature"] == 1
    assert record["settings"]["models"]["forward"]["bpe"] == "subword_nmt"
    assert record["settings"]["input"]["notes"] == {"without a text": 1}
    assert run(*words) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in told] == ["already exists"] * 2
    assert run(*words, "--seed", 1) == 2
    assert "was made with seed = 0, but now it is 1" in capsys.readouterr().err


def test_a_sentence_of_a_sample_is_named_by_the_file_of_the_texts(
    tmp_path, models, capsys
):
    splits = make_splits()
    splits["train"][2] = Example(("\u4f60\u597d",), "negative")
    binarize(splits, toy_encoder(), tmp_path / "data")
    words = ["--sample", tmp_path / "data", *models, "--copies", 1]
    assert run(*words, "--temperature", 0.5, "--to", tmp_path / "to") == 0
    texts = tmp_path / "data" / "text" / "train.input0"
    assert f"1 example unknown: {texts}, line 3\n" in capsys.readouterr().err


def test_sources_that_models_cannot_read_are_named(tmp_path, models, capsys):
    rows = ["text\tlabel", "a &#39; b\tgood", "\u4f60\u597d\tbad", "c \u4f60\tbad"]
    words = [*table(tmp_path, *rows), "--columns", "text", "label", *models]
    words += ["--temperature", 0.5, "--to", tmp_path / "to", "--copies", 2]
    assert run(*words) == 0
    told = capsys.readouterr()
    path = tmp_path / "own.tsv"
    assert ", 2 unknown" in told.out
    assert f"1 example unknown: {path}, line 3\n" in told.err
    assert "1 example with HTML entities" in told.err
    assert f"unescaped first: {path}, line 2\n" in told.err
    assert f"do not know: {path}, line 2; {path}, line 3; {path}, line 4\n" in told.err


def test_two_temperatures_two_names(tmp_path, models):
    words = [*table(tmp_path), "--columns", "text", "label", *models]
    words += ["--temperature", 0.5, "--temperature-backward", 0.9]
    assert run(*words, "--to", tmp_path / "to") == 0
    assert (tmp_path / "to" / "own-bt0.5-0.9.jsonl").is_file()


def prepared(folder):
    """Prepare two samples of a toy SST-2."""
    draw = Draw(few_shot=(10,), full=False, samples=2, size_valid=5, partial=True)
    source = Source.of_task(TASKS["SST-2"], write_sst2(folder / "glue"))
    data = folder / "data" / "SST-2"
    prepare_samples(source, toy_encoder(), data, draw, lambda *_: None)


def test_the_script_augments_samples_and_goes_on(tmp_path, models, fast_path):
    if shutil.which("fairseq-scl") is None:
        pytest.skip("fairseq-scl is not on the PATH")
    prepared(tmp_path)
    settings = {"FORWARD": models[1], "BACKWARD": models[3]}
    settings |= {"DATA_BIN": str(tmp_path / "data"), "TEMPERATURES": "0.9"}
    settings |= {"AUGMENTED": str(tmp_path / "out"), "TASKS": "SST-2"}
    argv = ["bash", ROOT / "scripts" / "backtranslate.sh", "--device", "cpu"]

    def started(**more):
        environment = {**os.environ, **settings, **more}
        return run_process(*argv, env=environment)

    missing = started()
    assert missing.returncode == 2
    assert "there is no sample of 100 in" in missing.stderr
    names = [f"n10-sample{number}-bt0.9.jsonl" for number in (0, 1)]
    for expected, more in ((names[:1], {"SAMPLES": "1"}), (names, {})):
        done = started(SIZES="10", **more)
        assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / "out" / "SST-2").glob("*.jsonl"))
        assert [file.name for file in files] == expected
    assert [len(rows_of(file)) for file in files] == [30, 30]


def test_a_sample_of_a_table_is_augmented_and_trained_on(tmp_path, models):
    """From a table to a record, as the steps of table5.sh do it."""
    random = Random(0)
    rows = [
        f"{' '.join(random.choices('abcdef', k=4))}\t{'xy'[i % 2]}" for i in range(60)
    ]
    own = write(tmp_path / "own.tsv", "text\tlabel", *rows)
    encoder = ["--encoder", str(toy_encoder())]
    data = tmp_path / "data"
    words = ["--table", str(own), "--columns", "text", "label", "--few-shot", "8"]
    words += ["--samples", "1", "--size-valid", "8", "--flip-labels", "0.25"]
    assert main(["prepare", *words, *encoder, "--to", str(data)]) == 0
    sample = data / "n8-sample0-flip0.25"
    own.unlink()
    words = ["--temperature", "0.9", "--copies", "2", "--to", tmp_path / "augmented"]
    assert run("--sample", sample, *models, *words) == 0
    made = rows_of(tmp_path / "augmented" / "n8-sample0-flip0.25-bt0.9.jsonl")
    labels = (sample / "text" / "train.label").read_text("utf-8").split()
    assert [row["label"] for row in made] == [name for name in labels for _ in "12"]
    words = ["--sample", str(data), "--augmented", str(tmp_path / "augmented")]
    assert main(["prepare", *words, *encoder, "--to", str(data)]) == 0
    augmented = data / "n8-sample0-flip0.25-bt0.9"
    text = (augmented / "text" / "train.input0").read_text("utf-8").splitlines()
    assert text[8:] == [row["input0"] for row in made]
    settings = {"updates": 2, "validations": 1, "keep_checkpoint": False}
    record = run_training(toy_run(data=augmented, **settings), tmp_path / "run")
    assert record.test[-1].total == 8
    draw = json.loads((augmented / "draw.json").read_text("utf-8"))
    assert draw["augmented"]["outputs"] == 16


def test_samples_need_their_text(tmp_path, models, refusal):
    prepared(tmp_path)
    sample = tmp_path / "data" / "SST-2" / "n10-sample0"
    refused = partial(refusal, "backtranslate", "--to", tmp_path / "to", *models)
    same = sample / ".." / sample.name
    assert "2 folders named n10-sample0" in refused("--sample", sample, same)
    columns = ("--columns", "text")
    assert "needs --table, not --sample" in refused("--sample", sample, *columns)
    assert "--table needs --columns" in refused(*table(tmp_path))
    shutil.rmtree(sample / "text")
    assert f"{sample} lacks text/, the text of its ex" in refused("--sample", sample)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", "0"), "a temperature is 0: it must be from 0.01"),
        (("--temperature", "0.3", "0.30000001"), "a temperature is 0.30000001"),
        (("--temperature-backward", "0"), "a temperature is 0: it must be from 0.01"),
        (("--copies", "0"), "--copies is 0: it must be at least 1"),
        (("--max-tokens", "0"), "--max-tokens is 0: it must be at least 1"),
        (("--top-p", "2"), "--top-p is 2: it must be from 0 to 1"),
        (("--forward", "nowhere"), "missing translation model: nowhere"),
        (("--precision", "tf32"), "the precision is 'tf32', which needs a GPU"),
        (("--pivot", "fr"), "translates en to de, but a model from en to fr is needed"),
    ],
)
def test_bad_flags_are_refused(tmp_path, models, refusal, words, message):
    start = [*table(tmp_path), "--columns", "text", "label", "--to", tmp_path / "to"]
    assert message in refusal("backtranslate", *start, *models, *words)
    assert not list(tmp_path.glob("to/*.jsonl"))
