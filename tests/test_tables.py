"""Tables as data: the paper's grids, the plans they stand for, and what is refused."""

from pathlib import Path

import pytest
from toy_tables import TOY_TABLE, make_toy_samples, write_toy_table

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, narrowed, planned_runs
from fairseq_scl.experiments.sweep import read_table, write_table
from fairseq_scl.experiments.tables import load_table, smoke
from fairseq_scl.report.paper import paper_table

MODELS = {"CE": Path("encoder"), "CE+SCL": Path("encoder")}
# Runs of each table: cells × repetitions × (1 CE + 6 × 4 CE+SCL); section 4.1.
RUNS = {
    "table2": 6 * 10 * 25,
    "table3": 3 * 3 * 10 * 25,
    "table4": 3 * 3 * 10 * 25,
    "table7": 2 * 10 * 25,
}


def plan(name="table4", settings=()):
    return planned_runs(load_table(name, settings), Path("data"), MODELS)


def load(tmp_path, old, new):
    assert old in TOY_TABLE
    return load_table(str(write_toy_table(tmp_path, TOY_TABLE.replace(old, new))))


@pytest.mark.parametrize("name", RUNS)
def test_tables_of_the_paper_have_its_cells_and_grid(name):
    runs = plan(name)
    assert len(runs) == RUNS[name]
    assert len({run.name for run in runs}) == len(runs)
    grid = {(run.scl_lambda, run.scl_temperature) for run in runs if run.scl_lambda}
    assert {x for x, _ in grid} == {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    assert {t for _, t in grid} == {0.1, 0.3, 0.5, 0.7}
    assert {run.learning_rate for run in runs} == {1e-5}
    printed = {
        tuple(sorted(map(str, c.where.values()))) for c in paper_table(name).cells
    }
    names = set(paper_table(name).cells[0].where)
    planned = {
        tuple(sorted(str(run.cell[key]) for key in names & set(run.cell)))
        for run in runs
    }
    assert printed <= planned  # Table 3 prints CE + SCL alone


def test_both_losses_have_the_same_samples_and_seeds():
    runs = plan()
    seeds = {
        loss: {(r.data, r.seed, r.updates) for r in runs if r.cell["loss"] == loss}
        for loss in MODELS
    }
    assert seeds["CE"] == seeds["CE+SCL"]
    assert runs[0].data == Path("data/SST-2/n20-sample0")


def test_sizes_have_their_own_budgets():
    found = {run.cell["n"]: run.updates for run in plan()}
    assert found == {20: 100, 100: 200, 1000: 630}
    found = {run.cell["n"]: run.updates for run in plan(settings=["updates=60"])}
    assert set(found.values()) == {60}
    mapping = "updates={20: 1, 100: 2, 1000: 3}"
    found = {run.cell["n"]: run.updates for run in plan(settings=[mapping])}
    assert found == {20: 1, 100: 2, 1000: 3}


def test_epochs_count_updates_from_the_data(tmp_path):
    make_toy_samples(tmp_path, samples=1)
    table = load(tmp_path, "updates: 6", "epochs: 3")
    runs = planned_runs(table, tmp_path, MODELS)
    assert {run.updates for run in runs if run.seed == 0} == {3}
    assert {run.updates for run in runs if run.seed == 1} == {0}  # not prepared


def test_smoke_goes_through_every_cell_with_one_point_of_the_grid():
    runs = planned_runs(smoke(load_table("table4")), Path("data"), MODELS)
    assert len(runs) == 9 * 3 * 2
    assert {run.updates for run in runs} == {2}
    points = {(r.scl_lambda, r.scl_temperature) for r in runs}
    assert points == {(0.0, 0.3), (0.9, 0.3)}


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ("", 2250),
        ("task=SST-2", 750),
        ("task=SST-2|QNLI,n=20", 500),
        ("n=20,task=SST-2,lambda=0.90,tau=.3", 20),
        ("n=20,task=SST-2,lambda=0.9,tau=0.3,sample=0-2", 6),
        ("loss=CE", 90),
        ("loss=CE+SCL,lambda=1", 9 * 10 * 4),
        ("task=SST-2, n=20, loss=CE, seed=3|5", 2),
    ],
)
def test_only_chooses(only, count):
    assert len(choose(plan(), only)) == count


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    "only", ["", "task=SST-2", "lambda=0.9", "loss=CE+SCL,tau=0.1|0.3", "loss=CE"]
)
def test_a_narrowed_table_stands_for_the_chosen_runs(name, only):
    if name == "table7":
        only = only.replace("SST-2", "Yelp-2")
    chosen = choose(plan(name), only)
    table = narrowed(load_table(name), chosen)
    assert (table == load_table(name)) == (only == "")
    cells = [run.cell for run in planned_runs(table, Path("data"), MODELS)]
    assert cells == [run.cell for run in chosen]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("task=SST2", "--only 'task=SST2' matches nothing: task is one of MNLI, QNLI"),
        (
            "size=20",
            "--only 'size=20': it must be KEY=VALUE|VALUE with one of the keys",
        ),
        ("n", "--only 'n': it must be KEY=VALUE"),
        ("n=21", "--only 'n=21' matches nothing: n is one of 100, 1000, 20"),
    ],
)
def test_only_refuses(only, message):
    with pytest.raises(InputError) as error:
        choose(plan(), only)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("caption:", "captoin:", "unknown key 'captoin', known are caption, selection"),
        ("  updates: 6", "  update: 6", "training: unknown key 'update', known are"),
        (
            "protocol: 1",
            "protocol: 2",
            "protocol is 2, this version of fairseq-scl know",
        ),
        ("tasks: [toy]", "", "tasks is missing"),
        ("tasks: [toy]", "tasks: [../toy]", "tasks: a name is '../toy': a name must"),
        ("  CE:", '  "a\\0b":', "losses: a name is 'a\\x00b': a name must"),
        ("tasks: [toy]", "tasks: toy", "tasks is 'toy', not a list"),
        ("few-shot", "best", "selection is 'best', it must be few-shot or full-data"),
        (
            "\nsizes: [8]",
            "\nsizes: [full]",
            "sizes is 'full', it must be numbers of example",
        ),
        (
            "few-shot",
            "full-data",
            "sizes is [8], it must be [full] where selection is f",
        ),
        (
            "repetitions: 3",
            "repetitions: 0.5",
            "repetitions is 0.5, it must be a number",
        ),
        ("[0.5, 0.9]", "[0.5, 1.9]", "scl_lambda is 1.9, it must be from 0 to 1"),
        ("[0.3]", "[0]", "scl_temperature is 0, it must be above 0"),
        ("[0.3]", "[true]", "scl_temperature is True, it must be above 0"),
        (
            "scl_temperature:",
            "tau:",
            "losses: CE+SCL is {'scl_lambda': [0.5, 0.9], 'tau",
        ),
        ("updates: 6", "updates: {20: 6}", "training: updates has none for the size 8"),
        (
            "updates: 6",
            "updates: -6",
            "training: updates is -6, it must be a number abo",
        ),
        ("updates: 6", "updates: 6\n  chunk: 0", "training: chunk is 0, it must be a"),
        ("  updates: 6\n", "", "training needs either updates or epochs"),
        (
            "updates: 6",
            "updates: 6\n  epochs: 1",
            "training needs either updates or ep",
        ),
        ("losses:", "losses: [", "is no YAML: while parsing"),
        (
            "1e-2",
            "fast",
            "training: learning_rate is 'fast', it must be a number above",
        ),
    ],
)
def test_a_wrong_file_gets_one_sentence(tmp_path, old, new, message):
    with pytest.raises(InputError) as error:
        load(tmp_path, old, new)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'toy.yaml'}")
    assert message in text
    assert "\n" not in text


def test_unknown_tables_and_settings_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"no table 'table9': choose of .*table4, .* or"
    ):
        load_table("table9")
    with pytest.raises(InputError, match="--set 'lr=1': it must be KEY=VALUE with one"):
        load_table("table4", ["lr=1"])
    with pytest.raises(InputError, match=r"--set 'updates=\[' is no YAML"):
        load_table("table4", ["updates=["])


def test_a_results_folder_keeps_its_table(tmp_path):
    table = load_table("table4", ["updates={20: 1, 100: 2, 1000: 3, full: 4}"])
    write_table(tmp_path / "r", table, tmp_path, MODELS)
    read, data, models = read_table(tmp_path / "r")
    assert (read, data) == (table, tmp_path)
    assert models == {loss: Path("encoder").absolute() for loss in MODELS}
    write_table(tmp_path / "r", table, tmp_path, MODELS)  # going on
    with pytest.raises(InputError, match=r"is of other settings \(training\): choose"):
        write_table(tmp_path / "r", load_table("table4"), tmp_path, MODELS)


def test_results_of_another_protocol_are_refused(tmp_path):
    write_table(tmp_path, load_table("table4"), tmp_path, MODELS)
    path = tmp_path / "table.json"
    path.write_text(path.read_text().replace('"protocol": 1', '"protocol": 7'))
    with pytest.raises(InputError, match=r"table\.json: protocol is 7, this version"):
        read_table(tmp_path)
    with pytest.raises(InputError, match=r"table\.json is missing"):
        read_table(tmp_path / "none")
