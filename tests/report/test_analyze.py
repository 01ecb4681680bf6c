"""``fairseq-scl analyze``: before and after fine-tuning, and probes of both."""

import json
from contextlib import redirect_stderr

import msgspec
import pytest
import torch

from fairseq_scl.cli import main
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.frozen import load_frozen, measured, probed
from fairseq_scl.experiments.geometry import MEASURES
from fairseq_scl.experiments.results_folder import BEST
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.inference.data_split import split_features
from fairseq_scl.inference.model_folder import export_classifier, load_classifier
from fairseq_scl.report.representation_sheets import representation_sheets
from helpers.encoders import toy_data, toy_encoder, toy_model, toy_run, trained
from helpers.noisy import noisy_results
from helpers.training import Terminal


def analyze(folder, *words):
    given = ["--data", toy_data(), "--to", folder / "analysis.md", "--device", "cpu"]
    return main(["analyze", *map(str, [*given, *words])])


def test_before_and_after_are_in_one_table(tmp_path, capfd):
    models = ["--model", f"before={toy_encoder()}", "--model", f"SCL={toy_model()}"]
    probe = ["--probe", f"itself={toy_data()}"]
    assert analyze(tmp_path, *models, *probe) == 0
    out = capfd.readouterr().out
    assert "| before |" in out
    assert "| SCL |" in out
    assert "Linear probes of the frozen encoder" in out
    made = json.loads((tmp_path / "analysis.json").read_text())
    assert [one["kind"] for one in made["models"]] == ["encoder", "model"]
    assert made["probes"] == {"itself": made["data"]}
    before, after = (one["measures"] for one in made["models"])
    assert set(before) == set(after) == set(MEASURES)
    assert after["silhouette"] > before["silhouette"] + 0.1  # it was trained to
    assert after["alignment"] < before["alignment"]
    for one in made["models"]:
        assert one["probes"]["itself"]["test_total"] == 8
    assert (tmp_path / "analysis.md").read_text().strip() in out
    again = (tmp_path / "analysis.json").read_bytes()
    assert analyze(tmp_path, *models, *probe) == 0
    assert (tmp_path / "analysis.json").read_bytes() == again


def test_the_bar_counts_models_and_probes(tmp_path):
    models = ["--model", f"before={toy_encoder()}", "--model", f"SCL={toy_model()}"]
    with redirect_stderr(Terminal()) as terminal:
        assert analyze(tmp_path, *models, "--probe", f"itself={toy_data()}") == 0
    assert "SCL, itself: 100%" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()


def test_an_encoder_s_features_do_not_depend_on_the_head_that_it_gets():
    encoder, data, found = toy_encoder(), toy_data(), []
    for seed in range(2):
        torch.manual_seed(seed)
        frozen = load_frozen(encoder, data)
        found.append(split_features(frozen, data, "test", encoder))
    first, second = found
    assert (first == second).all()
    assert first.shape == (8, 16)


def test_a_run_measures_what_its_model_folder_gives(tmp_path):
    run = toy_run(representations=True, updates=10)
    record = run_training(run, tmp_path / "run")
    assert set(record.representations) == set(MEASURES)
    export_classifier(tmp_path / "run" / BEST, run.data, tmp_path / "model")
    found = measured(tmp_path / "model", run.data, "test")
    # The exported model has the stock epsilon of layer norms.
    assert record.representations == pytest.approx(found, rel=1e-3, abs=1e-4)
    plain = run_training(toy_run(updates=10), tmp_path / "plain")
    assert (plain.valid, plain.test) == (record.valid, record.test)


def test_a_model_of_single_sentences_is_probed_on_pairs():
    assert not load_classifier(toy_model()).pair
    found = probed(toy_model(), toy_data(pairs=True))
    assert found.test_total == found.valid_total == 8
    assert found == probed(toy_model(), toy_data(pairs=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "x"], "--model 'x': it must be NAME=FOLDER"),
        (
            ["--model", "x=nowhere"],
            "--model x= is 'nowhere': there is no such folder",
        ),
        (["--model", "x=a", "--model", "x=b"], "--model 'x=b': x is given twice"),
        (["--model", "x=a", "--top", "0"], "--top is 0: it must be at least 1"),
        (["--model", "x={encoder}", "--split", "dev"], "has no dev split"),
        (
            ["--model", "x={encoder}", "--probe", "p=none"],
            "there is no data folder none",
        ),
        (["--model", "x={other}"], "was prepared with another vocabulary than that of"),
    ],
)
def test_what_cannot_be_analysed_is_refused(tmp_path, capfd, words, message):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.pt").write_bytes(b"")
    (other / "dict.txt").write_text("a 1\n")
    words = [word.format(encoder=toy_encoder(), other=other) for word in words]
    assert analyze(tmp_path, *words) == 2
    assert message in capfd.readouterr().err


def test_a_damaged_analysis_is_named(tmp_path):
    found = noisy_results()
    for record in found.records:
        values = dict.fromkeys(MEASURES, 0.5)
        msgspec.structs.force_setattr(record, "representations", values)
    (sheet,) = representation_sheets(found, tmp_path)
    assert sheet.rows[0][:5] == ("SST-2", "0", "CE", "4 of 4", "0.5 ± 0")
    (tmp_path / "analysis.json").write_text('{"models": [{"name": "x"}]}')
    with pytest.raises(InputError, match=r"analysis\.json: schema is None"):
        representation_sheets(found, tmp_path)
    (tmp_path / "analysis.json").unlink()
    assert analyze(tmp_path, "--model", f"before={toy_encoder()}") == 0
    assert representation_sheets(found, tmp_path)[0].rows[0][2] == "before"
    cls = json.loads((tmp_path / "analysis.json").read_text())["models"][0]
    mean = ["--pooling", "mean"]
    assert analyze(tmp_path, "--model", f"before={toy_encoder()}", *mean) == 0
    assert representation_sheets(found, tmp_path)[0].rows[0][2] == "before (mean)"
    (one,) = json.loads((tmp_path / "analysis.json").read_text())["models"]
    assert (cls["features"], one["features"]) == ("cls", "mean")
    assert cls["measures"] != one["measures"]
    other = ["--split", "valid", "--top", "2"]
    assert analyze(tmp_path, "--model", f"before={toy_encoder()}", *other) == 0
    with pytest.raises(InputError, match=r"analysis\.json has --split valid --top 2"):
        representation_sheets(found, tmp_path)
    assert trained()[2].representations is None
    assert representation_sheets(noisy_results(), tmp_path) == []
