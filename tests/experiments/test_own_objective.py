"""docs/your-own-objective.md: its code and its table, run on toy sentences."""

import re
import shlex
import shutil
from dataclasses import replace

import pytest

from fairseq_scl.cli import main
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.files import read_json
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.results_folder import METRICS, read_metrics, read_record
from fairseq_scl.experiments.runner import done_record
from fairseq_scl.experiments.statistics import result_at_best
from fairseq_scl.experiments.tables import load_table
from helpers import ROOT
from helpers.encoders import make_splits, toy_encoder, train_in_fork
from helpers.refusals import refused

PAGE = (ROOT / "docs" / "your-own-objective.md").read_text("utf-8")


def block(language):
    """Return the first block of code in a language."""
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the page says, and data that its table asks for."""
    folder = tmp_path_factory.mktemp("own objective")
    (folder / "my_objectives").mkdir()
    (folder / "my_objectives" / "__init__.py").write_text(block("python"))
    (folder / "penalty.yaml").write_text(block("yaml"))
    sample = folder / "data" / "movie-reviews" / "n100-sample0"
    binarize(make_splits(train=100), toy_encoder(), sample)
    return folder


def command(place, results="results", *more):
    argv = ["run", str(place / "penalty.yaml"), "--data", str(place / "data")]
    argv += ["--model", str(toy_encoder()), "--results", str(place / results)]
    argv += ["--device", "cpu", "--set", "updates=4", "--set", "validations=2"]
    return [*argv, "--only", "sample=0", *more]


@pytest.fixture(scope="module")
def results(place):
    assert main(command(place)) == 0
    return place / "results"


def test_the_page_s_criterion_is_as_short_as_the_page_says():
    assert 30 <= len(block("python").splitlines()) <= 45


def test_the_table_compares_it_with_ce_and_scl(results):
    names = sorted(path.name for path in results.glob("runs/*"))
    start = "movie-reviews-n100"
    losses = ("CE", "CE+SCL-lambda0.9-tau0.3")
    losses += ("penalty-penalty0.1", "penalty-penalty0.5")
    assert names == sorted(f"{start}-{loss}-sample0" for loss in losses)
    record = read_record(results / "runs" / f"{start}-penalty-penalty0.5-sample0")
    assert record.settings["options"] == {"penalty": 0.5}
    assert record.valid[0].scl_loss is None
    assert record.valid[0].ce_loss > 0
    assert "user_dir" in record.origin["sha256"]
    for name in ("table.md", "report.html"):
        assert "penalty" in (results / name).read_text("utf-8")
    assert read_json(results / "table.json")["table"]["user_dir"].endswith("objectives")
    assert main(["report", str(results)]) == 0


def test_its_runs_are_those_of_the_printed_command(place, results, tmp_path, capfd):
    only = ["--only", "loss=penalty,penalty=0.5,sample=0", "--dry-run"]
    assert main(command(place, "elsewhere", *only)) == 0
    argv = shlex.split(capfd.readouterr().out.strip())
    assert argv[argv.index("--user-dir") + 1] == str(place / "my_objectives")
    argv[argv.index("--save-dir") + 1] = str(tmp_path)
    argv[argv.index("--metrics-file") + 1] = str(tmp_path / METRICS)
    assert train_in_fork(None, argv, tmp_path) == 0
    printed = read_metrics(tmp_path / METRICS)
    (name,) = (p.name for p in results.glob("runs/*penalty0.5-sample0"))
    record = read_record(results / "runs" / name)
    assert record.valid == printed["valid"]
    assert result_at_best(record) in printed["test"]


def test_ce_of_a_criterion_that_does_not_log_it_is_that_of_the_logits(results):
    name = "movie-reviews-n100-{}-sample0"
    ce = read_record(results / "runs" / name.format("CE"))
    mine = read_record(results / "runs" / name.format("penalty-penalty0.1"))
    # A few updates apart; the loss itself is about 0.07 lower.
    assert mine.valid[0].ce_loss == pytest.approx(ce.valid[0].ce_loss, abs=0.02)


def test_results_of_edited_code_are_refused(place, results, tmp_path):
    copy = shutil.copytree(place / "my_objectives", tmp_path / "my_objectives")
    table = load_table(str(place / "penalty.yaml"), ["updates=4", "validations=2"])
    models = dict.fromkeys(table.losses, toy_encoder())
    runs = planned_runs(table, place / "data", models)
    (run,) = choose(runs, "loss=penalty,penalty=0.1,sample=0")
    folder = results / "runs" / run.name
    assert done_record(replace(run, user_dir=copy), folder)
    (copy / "__init__.py").write_text(block("python") + "\n# edited\n")
    with pytest.raises(InputError, match=r"other settings \(user_dir\)"):
        done_record(replace(run, user_dir=copy), folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("penalty: [0.1, 0.5]", "penlty: 0.1", "losses: penalty; penlty; penalty"),
        ("penalty: [0.1, 0.5]", "penalty: [a]", "losses: penalty: penalty; 'a'"),
        ("criterion: confidence_penalty", "criterion: mine", "'mine'; confidence_p"),
        ("user_dir: my_objectives", "user_dir: gone", "user_dir; gone; __init__.py"),
        ("user_dir: my_objectives", "user_dir: 3", "user_dir is 3"),
        ("user_dir: my_objectives", "user_dir: broken", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_is_refused_before_training(place, old, new, words):
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "__init__.py").write_text("1 / 0\n")
    text = block("yaml")
    assert old in text
    other = place / "other.yaml"
    other.write_text(text.replace(old, new))
    with refused(other, *words.split("; ")):
        load_table(str(other))
