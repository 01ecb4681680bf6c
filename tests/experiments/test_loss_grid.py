"""A loss of a table may be any objective: from the file to the command and back."""

from pathlib import Path

import pytest

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import command
from fairseq_scl.experiments.plan import choose, planned_runs
from fairseq_scl.experiments.runner import done_record
from fairseq_scl.experiments.tables import load_table, smoke
from fairseq_scl.report.csv_rows import attempt_rows, cell_rows
from fairseq_scl.report.html import page
from fairseq_scl.report.sheets import accuracies, basis, differences
from fairseq_scl.report.words import verdicts
from helpers.encoders import toy_encoder, toy_run
from helpers.noisy import noisy_results
from helpers.refusals import refused
from helpers.tables import TOY_TABLE, make_toy_samples, write_toy_table

LOSSES = """losses:
  CE: {scl_lambda: 0}
  MLP: {criterion: sentence_prediction_capcort, capcort_lambda: [0.1, 1], capcort_map: mlp}
  ACL:
    criterion: sentence_prediction_acl
    acl_embed: true
    acl_anchors: [samples, all]
  pooled: {scl_lambda: 0.5, scl_features: pooled}
"""  # noqa: E501


def compare(only=""):
    table = load_table("compare")
    runs = planned_runs(table, Path("data"), dict.fromkeys(table.losses, Path("e")))
    return choose(runs, only)


def toy(tmp_path, losses=LOSSES):
    start, end = TOY_TABLE.index("losses:"), TOY_TABLE.index("training:")
    text = TOY_TABLE[:start] + losses + TOY_TABLE[end:]
    return load_table(str(write_toy_table(tmp_path, text)))


def test_compare_has_every_objective_on_the_same_samples():
    runs = compare()
    assert len(runs) == 4 * 10 * (1 + 5 * 3)
    assert len({run.name for run in runs}) == len(runs)
    samples = [
        {(r.data, r.seed, r.updates) for r in runs if r.cell["loss"] == loss}
        for loss in load_table("compare").losses
    ]
    assert len(samples) == 6
    assert all(one == samples[0] for one in samples)
    table = load_table("compare")
    least = planned_runs(smoke(table), Path("d"), dict.fromkeys(table.losses, Path()))
    assert len(least) == 4 * 3 * 6


def test_a_cell_has_its_choice_and_a_distinct_name(tmp_path):
    table = toy(tmp_path)
    runs = planned_runs(table, tmp_path, dict.fromkeys(table.losses, tmp_path))
    names = [run.name for run in runs if run.seed == 0]
    assert names == [
        "toy-n8-CE-sample0",
        "toy-n8-MLP-capcort_lambda0.1-sample0",
        "toy-n8-MLP-capcort_lambda1-sample0",
        "toy-n8-ACL-acl_anchorssamples-sample0",
        "toy-n8-ACL-acl_anchorsall-sample0",
        "toy-n8-pooled-lambda0.5-sample0",
    ]
    by_name = dict(zip(names, [run for run in runs if run.seed == 0], strict=True))
    mlp, acl = by_name[names[2]], by_name[names[4]]
    assert mlp.loss == {
        "criterion": "sentence_prediction_capcort",
        **{"scl_lambda": 0.0, "scl_temperature": 0.3},  # the criterion's own
        **{"capcort_lambda": 1.0, "capcort_map": "mlp"},
    }
    assert mlp.cell["capcort_lambda"] == 1.0
    assert "scl_lambda" not in mlp.cell
    assert "capcort_map" not in mlp.cell
    assert (acl.loss["scl_lambda"], acl.cell["acl_anchors"]) == (0.9, "all")


def test_the_command_is_the_objective_s(tmp_path):
    loss = {"criterion": "sentence_prediction_acl", "scl_lambda": 0.5}
    loss |= {"acl_embed": True, "acl_grad": False, "acl_anchors": "all"}
    run = toy_run(loss=loss)
    argv = command(run, tmp_path)
    assert argv[argv.index("--criterion") + 1] == "sentence_prediction_acl"
    assert argv[argv.index("--scl-lambda") + 1] == "0.5"
    assert argv[argv.index("--acl-anchors") + 1] == "all"
    assert "--acl-embed" in argv
    assert "--acl-grad" not in argv


def test_a_record_of_another_objective_is_refused(tmp_path):
    from fairseq_scl.experiments.runner import run_training

    table = toy(tmp_path)
    make_toy_samples(tmp_path, samples=1)
    runs = planned_runs(table, tmp_path, dict.fromkeys(table.losses, toy_encoder()))
    runs = [run for run in runs if run.seed == 0]
    record = run_training(runs[1], tmp_path / "run")
    assert record.settings["criterion"] == "sentence_prediction_capcort"
    assert record.representations is None
    assert done_record(runs[1], tmp_path / "run")
    with pytest.raises(InputError, match=r"settings \(name, cell, capcort_lambda\)"):
        done_record(runs[2], tmp_path / "run")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_capcort,", "_cap,", "MLP: criterion is 'sentence_prediction_cap': it must"),
        ("capcort_map", "capcort_phi", "MLP is {'criterion': 'sentence_prediction_cap"),
        (
            "[0.1, 1]",
            "[0.1, one]",
            "capcort_lambda: [1]: expected float, got str, found 'one'",
        ),
        ("[0.1, 1]", "[0.1, 0.10]", "capcort_lambda is [0.1, 0.1]: it must be one or"),
        ("[0.1, 1]", "[1, 1.0000001]", "it must be one or more distinct values"),
        ("[0.1, 1]", "[]", "capcort_lambda is []: it must be one or more distinct"),
        (
            "acl_embed: true",
            "acl_embed: 1",
            "acl_embed: [0]: expected bool, got int, found 1",
        ),
        (
            "features: pooled",
            "features: 1",
            "scl_features: [0]: expected str, got int, found 1",
        ),
        ("CE: {scl_lambda: 0}", "CE: 0", "losses: CE is 0: it must map options to"),
        (
            "acl_embed: true",
            "learning_rate: 2",
            "learning_rate: [0]: expected float <= ",
        ),
        (
            "scl_lambda: 0.5",
            "regression_head: first",
            "regression_head: [0]: invalid enum value 'first', allowed are",
        ),
    ],
)
def test_a_wrong_loss_gets_one_sentence(tmp_path, old, new, message):
    assert old in LOSSES
    with refused(message):
        toy(tmp_path, LOSSES.replace(old, new))


def test_a_loss_may_train_in_its_own_way(tmp_path):
    losses = "losses:\n  A: {scl_lambda: 0, learning_rate: [1e-4, 2e-4]}\n"
    losses += "  B: {scl_lambda: 1, learning_rate: 3e-4, regression_head: after}\n"
    table = toy(tmp_path, losses)
    runs = planned_runs(table, tmp_path, dict.fromkeys(table.losses, toy_encoder()))
    names = {r.name.partition("-A-")[2] or r.name.partition("-B-")[2] for r in runs}
    assert names > {"learning_rate0.0002-sample0", "lambda1-sample0"}
    found = {
        (r.cell["loss"], r.learning_rate, r.regression_head, r.validations == 1)
        for r in runs
    }
    assert found == {
        ("A", 1e-4, None, False),
        ("A", 2e-4, None, False),
        ("B", 3e-4, "after", True),
    }
    assert all("learning_rate" not in run.loss for run in runs)
    assert len(choose(runs, "learning_rate=1e-4,loss=A")) == table.repetitions


def test_flipped_data_have_folders_of_their_own():
    folders = {str(run.data) for run in compare("sample=3,loss=CE")}
    base = "data/SST-2/n100-sample3"
    assert folders == {base, f"{base}-flip0.1", f"{base}-flip0.2", f"{base}-flip0.3"}


def test_columns_are_shares_of_flipped_labels():
    sheet = accuracies(noisy_results())
    assert sheet.groups == (("", 2), ("0% flipped", 1), ("20% flipped", 1))
    assert [row[:2] for row in sheet.rows] == [("SST-2", "CE"), ("SST-2", "CAPCORT")]
    assert sheet.rows[1][2:] == ("77.5 ± 0.2", "72.5 ± 0.2")
    rows = differences(noisy_results()).rows
    assert [row[:3] for row in rows] == [
        ("SST-2", "0", "CAPCORT − CE"),
        ("SST-2", "0.2", "CAPCORT − CE"),
    ]
    said = [sentence for _, sentence in verdicts(noisy_results())]
    assert said[1].startswith(
        "SST-2, 20% flipped: CAPCORT (capcort_lambda = 0.01, chosen from 2 of 2 "
    )


def test_options_have_a_column_each():
    found = noisy_results()
    sheet = basis(found)
    assert sheet.header[2:6] == ("loss", "λ", "τ", "capcort_lambda")
    assert sheet.rows[1][2:6] == ("CAPCORT", "–", "–", "0.01")
    assert cell_rows(found)[1]["capcort_lambda"] == 0.01
    assert cell_rows(found)[0]["capcort_lambda"] is None
    assert attempt_rows(found)[-1]["capcort_lambda"] == 0.1


def test_the_page_has_the_curves(tmp_path):
    html = page(noisy_results(), tmp_path)
    assert "against the share of flipped training labels" in html
    assert "against the share" not in page(noisy_results(flipped=[0.2]), tmp_path)
