"""Tables as data: the paper's grids, the plans they stand for, and what is refused."""

from pathlib import Path

import msgspec
import pytest

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.plan import choose, narrowed, planned_runs
from fairseq_scl.experiments.results_folder import check_table, read_table, write_table
from fairseq_scl.experiments.tables import load_table, smoke
from fairseq_scl.report.paper import paper_tables
from helpers.damage import edit
from helpers.refusals import refused
from helpers.tables import TOY_TABLE, make_toy_samples, write_toy_table

MODELS = {"CE": Path("encoder"), "CE+SCL": Path("encoder")}
# Runs of each table: cells × repetitions × (1 CE + 6 × 4 CE+SCL); section 4.1.
RUNS = {
    "table2": 6 * 10 * 25,
    "table3": 3 * 3 * 10 * 25,
    "table4": 3 * 3 * 10 * 25,
    "table7": 2 * 10 * 25,
}


def plan(name="table4", settings=()):
    table = load_table(name, settings)
    return planned_runs(table, Path("data"), dict.fromkeys(table.losses, Path("e")))


def load(tmp_path, old, new):
    assert old in TOY_TABLE
    return load_table(str(write_toy_table(tmp_path, TOY_TABLE.replace(old, new))))


@pytest.mark.parametrize("name", RUNS)
def test_tables_of_the_paper_have_its_cells_and_grid(name):
    runs = plan(name)
    assert len(runs) == RUNS[name]
    assert len({run.name for run in runs}) == len(runs)
    points = {(r.loss["scl_lambda"], r.loss["scl_temperature"]) for r in runs}
    grid = points - {(0.0, 0.3)}
    assert {x for x, _ in grid} == {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    assert {t for _, t in grid} == {0.1, 0.3, 0.5, 0.7}
    assert {run.learning_rate for run in runs} == {1e-5}
    printed = {
        tuple(sorted(map(str, c.where.values()))) for c in paper_tables()[name].cells
    }
    names = set(paper_tables()[name].cells[0].where)
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
    points = {(r.loss["scl_lambda"], r.loss["scl_temperature"]) for r in runs}
    assert points == {(0.0, 0.3), (0.9, 0.3)}


@pytest.mark.parametrize(
    ("name", "only", "count"),
    [
        ("table4", "", 2250),
        ("table4", "task=SST-2", 750),
        ("table4", "task=SST-2|QNLI,n=20", 500),
        ("table4", "n=20,task=SST-2,lambda=0.90,tau=.3", 20),
        ("table4", "n=20,task=SST-2,lambda=0.9,tau=0.3,sample=0-2", 6),
        ("table4", "loss=CE", 90),
        ("table4", "loss=CE+SCL,lambda=1", 9 * 10 * 4),
        ("table4", "task=SST-2, n=20, loss=CE, seed=3|5", 2),
        ("table5", "temperature=0.3|0.5,lambda=0.9,tau=0.3,task=SST-2", 2 * 20),
        ("table5", "temperature=.30,loss=CE,task=SST-2", 10),
        ("table5", "temperature=original,loss=CE", 30),
        ("table5", "task=SST-2||MNLI|,loss=CE", 100),  # TASKS with more spaces
        ("compare", "flipped=0", 160),
        ("compare", "flipped=0.1|.30,loss=CE", 20),
        ("compare", "lambda=0.9,capcort_lambda=0.01,flipped=0", 60),
        ("compare", "loss=ACL-Embed|CAPCORT-MLP,sample=0-1,flipped=0", 12),
    ],
)
def test_only_chooses(name, only, count):
    assert len(choose(plan(name), only)) == count


@pytest.mark.parametrize(
    ("name", "only", "of_table4"),
    [
        ("table5", "temperature=original", "n=100"),
        ("compare", "flipped=0,loss=CE", "task=SST-2,n=100,loss=CE"),
    ],
)
def test_columns_without_noise_are_table_4_at_100(name, only, of_table4):
    cells = [
        {(r.data, *r.loss.values(), r.seed, r.updates, r.validations) for r in runs}
        for runs in (choose(plan(name), only), choose(plan(), of_table4))
    ]
    assert cells[0] == cells[1]


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
    ("name", "only", "words"),
    [
        ("table4", "task=SST2", "matches nothing: task is one of MNLI, QNLI, SST-2"),
        ("table4", "size=20", "it must be KEY=VALUE|VALUE with one of the keys batch"),
        ("table4", "n", "it must be KEY=VALUE"),
        ("table4", "n=|", "'' matches nothing: n is one of"),
        ("table4", "n=21", "matches nothing: n is one of 100, 1000, 20"),
        ("table4", "n=20|1OO", "'1OO' matches nothing: n is one of 100, 1000, 20"),
        ("table4", "sample=0|12-14", "'12-14' matches nothing: sample is one of 0, 1"),
        ("table4", "temperature=0.3", "matches nothing: no run has a temperature"),
        ("table5", "temperature=0.4", "temperature is one of 0.3, 0.5, 0.7, 0.9, orig"),
        ("compare", "capcort=1", "keys batch, capcort_lambda, flipped, lambda"),
        ("compare", "flipped=10", "flipped is one of 0.0, 0.1, 0.2, 0.3"),
    ],
)
def test_only_refuses(name, only, words):
    with refused(f"--only {only!r}", words):
        choose(plan(name), only)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("caption:", "captoin:", "captoin; caption, selection"),
        ("caption: Toy table", "caption: 3", "caption; 3"),
        ("  updates: 6", "  update: 6", "training; update; updates, epochs"),
        ("protocol: 1", "protocol: 2", "protocol is 2; supports 1"),
        ("protocol: 1", "", "protocol"),
        ("protocol: 1", "protocol: 1\nname: toy", "name"),
        ("tasks: [toy]", "", "tasks"),
        ("tasks: [toy]", "tasks: []", "tasks; []"),
        ("tasks: [toy]", "tasks: [../toy]", "tasks; '../toy'"),
        ("tasks: [toy]", "tasks: [toy, 3]", "tasks[1]; 3"),
        ("tasks: [toy]", "tasks: [toy, a, toy]", "tasks; ['toy', 'a', 'toy']; differ"),
        ("tasks: [toy]", "tasks: toy", "tasks; 'toy'"),
        ("  CE:", '  "a\\0b":', r"losses; 'a\x00b'"),
        ("  CE:", '  "":', "losses; ''"),
        ("  CE:", "  .hidden:", "losses; '.hidden'"),
        ("  CE:", "  x/../../../victim:", "losses; 'x/../../../victim'"),
        ("  CE:", f"  {'x' * 201}:", "losses; 200 bytes"),
        ("  CE:", "  1:", "losses; 1"),
        ("  CE+SCL:", "  CE:", "the key 'CE'; twice"),
        ("protocol: 1", "protocol: 1\nprotocol: 1", "the key 'protocol'; twice"),
        ("few-shot", "best", "selection; 'best'; few-shot, full-data"),
        ("\nsizes: [8]", "\nsizes: [full]", "sizes; ['full']; numbers"),
        ("\nsizes: [8]", "\nsizes: [8, 8]", "sizes; [8, 8]; differ"),
        ("\nsizes: [8]", "\nsizes: [8.5]", "sizes[0]; 8.5"),
        ("\nsizes: [8]", "\nsizes: [most]", "sizes[0]; 'most'; full"),
        ("\nsizes: [8]", "\nsizes: [0x9999999999999999]", "sizes[0]; 110680464"),
        ("few-shot", "full-data", "sizes; [8]; [full]"),
        ("batch_sizes: [8]", "batch_sizes: [8, 4, 8]", "batch_sizes; [8, 4, 8]"),
        ("batch_sizes: [8]", "batch_sizes: null", "batch_sizes; None"),
        ("repetitions: 3", "repetitions: 0.5", "repetitions; 0.5"),
        ("repetitions: 3", "repetitions: !!int ''", "not YAML"),
        ("repetitions: 3", "repetitions: 2026-31-31", "not YAML"),
        ("repetitions: 3", f"repetitions: {'9' * 5000}", "not YAML"),
        ("[0.5, 0.9]", "[0.5, 1.9]", "CE+SCL; scl_lambda; [1]; 1.9; <= 1.0"),
        ("[0.5, 0.9]", "[0.5, .nan]", "CE+SCL; scl_lambda; [1]; nan"),
        ("[0.3]", "[0]", "CE+SCL; scl_temperature; >= 1e-06; found 0"),
        ("scl_temperature:", "tau:", "losses: CE+SCL; 'tau'"),
        ("updates: 6", "updates: {20: 6}", "training; updates; the size 8"),
        ("updates: 6", "updates: {8: 6, -1: 3}", "training.updates; >= 1"),
        ("updates: 6", "updates: -6", "training.updates; -6"),
        ("updates: 6", "updates: 6\n  chunk: 0", "training.chunk; found 0"),
        ("updates: 6", "updates: 6\n  representations: 1", "representations; found 1"),
        ("batching: resh", "batching: x", "training.batching; fixed, reshuffled, "),
        ("  updates: 6\n", "", "training needs either updates or epochs"),
        ("updates: 6", "updates: 6\n  epochs: 1", "needs either updates or epochs"),
        ("training:", "training: 3\nother:", "training; 3"),
        ("losses:", "losses: [", "is not YAML: while parsing"),
        ("1e-2", "fast", "training.learning_rate; 'fast'"),
        ("1e-2", ".nan", "training.learning_rate; nan"),
        ("1e-2", ".inf", "training.learning_rate; inf"),
        ("1e-2", "-1e-2", "training.learning_rate; -0.01"),
        ("1e-2", "'1e-2'", "training.learning_rate; '1e-2'"),
        ("1e-2", "true", "training.learning_rate; True"),
        ("tasks:", "temperatures: [0]\ntasks:", "temperatures[0]; > 0.0; found 0"),
        ("tasks:", "temperatures: [x]\ntasks:", "temperatures[0]; 'x'; original"),
        ("tasks:", "temperatures: 0.3\ntasks:", "temperatures; found 0.3"),
        ("tasks:", "temperatures: [0.3, 0.30]\ntasks:", "[0.3, 0.3]; differ"),
        ("tasks:", "flipped: [0, 1]\ntasks:", "flipped[1]; < 1.0; found 1"),
        ("tasks:", "flipped: [-0.1]\ntasks:", "flipped[0]; >= 0.0; found -0.1"),
        ("tasks:", "flipped: [0.1, 0.10]\ntasks:", "flipped; [0.1, 0.1]; differ"),
        ("tasks:", "flipped: 0.1\ntasks:", "flipped; found 0.1"),
    ],
)
def test_a_wrong_file_gets_one_sentence(tmp_path, old, new, words):
    with refused(tmp_path / "toy.yaml", *words.split("; ")):
        load(tmp_path, old, new)


@pytest.mark.parametrize("text", ["", "3", "- 1", "{}", "null", "a: b"])
def test_a_file_that_is_not_a_table_is_refused(tmp_path, text):
    path = write_toy_table(tmp_path, text)
    with pytest.raises(InputError, match=str(path)):
        load_table(str(path))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_bytes(TOY_TABLE.replace("Toy", "Tür").encode("latin-1"))
    with pytest.raises(InputError, match=rf"{path}: .*utf-8"):
        load_table(str(path))


@pytest.mark.parametrize("text", ["1e-2", "1E-2", "+1e-02", "0.01", "1.e-2", ".1e-1"])
def test_numbers_are_read_as_python_reads_them(tmp_path, text):
    assert load(tmp_path, "1e-2", text).training.learning_rate == 0.01


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("learning_rate=-1e-3", "training.learning_rate; -0.001"),
        ("learning_rate=", "training.learning_rate; None"),
        ("learning_rate={20: 1, 20: 2}", "the key 20; twice"),
        ("updates=true", "training.updates; True"),
        ("validations=0", "training.validations; found 0"),
        ("updates={20: 3}", "updates; the size 100"),
        ("epochs=null", "needs either updates or epochs"),
    ],
)
def test_a_wrong_setting_is_named(setting, words):
    with refused("--set", setting, *words.split("; ")):
        load_table("table4", [setting])


def test_unknown_tables_and_settings_are_refused(tmp_path):
    with refused("no table 'table9': choose from", "table4, table5"):
        load_table("table9")
    with pytest.raises(InputError, match="--set 'lr=1': it must be KEY=VALUE with one"):
        load_table("table4", ["lr=1"])
    with pytest.raises(InputError, match=r"--set 'updates=\[' is not YAML"):
        load_table("table4", ["updates=["])


@pytest.mark.parametrize("name", ["table5", "compare"])
def test_a_results_folder_keeps_noise_objectives_and_their_order(tmp_path, name):
    table = load_table(name)
    write_table(tmp_path, table, tmp_path, dict.fromkeys(table.losses, tmp_path))
    read, _, _ = read_table(tmp_path)
    assert read == table
    assert list(read.losses) == list(table.losses)


def test_a_results_folder_keeps_its_table(tmp_path):
    table = load_table("table4", ["updates={20: 1, 100: 2, 1000: 3, full: 4}"])
    write_table(tmp_path / "r", table, tmp_path, MODELS)
    read, data, models = read_table(tmp_path / "r")
    assert (read, data) == (table, tmp_path)
    assert models == {loss: Path("encoder").absolute() for loss in MODELS}
    reworded = msgspec.structs.replace(table, caption="Reworded", repetitions=12)
    check_table(tmp_path / "r", reworded)
    changes = ["learning_rate=2e-4", "updates={20: 9, 100: 2, 1000: 3, full: 4}"]
    changed = load_table("table4", changes)
    with refused(
        "has other settings (training.learning_rate was 1e-05, is now 0.0002; "
        "training.updates.20 was 1, is now 9): choose another folder or delete it"
    ):
        check_table(tmp_path / "r", changed)
    with refused("; and 4 more): choose another folder"):
        check_table(tmp_path / "r", load_table("table3"))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("schema", 2, "schema is 2"),
        ("table", 3, "table; 3"),
        ("data", 3, "data; 3"),
        ("models.CE", None, "models; 'CE': None"),
        ("models", {"CE": "there"}, "models; CE+SCL"),
        ("order", ["CE", "CE"], "order; CE+SCL"),
        ("order", "CE", "order; 'CE'"),
        ("more", 1, "more"),
        ("table.losses", [], "losses; []"),
        ("table.losses.CE", {}, "losses: CE; {}"),
        ("table.name", "../x", "name; '../x'"),
        ("table.sizes", [20, "20"], "sizes[1]; '20'"),
        ("table.protocol", 7, "protocol is 7"),
        ("table.training.updates", {"20": 0, "100": 1}, "updates; '20': 0"),
        ("table.training.updates", {"x": 0}, "training.updates; 'x'"),
        ("table.training.learning_rate", float("nan"), "learning_rate"),
    ],
)
def test_a_damaged_folder_of_results_is_refused(tmp_path, place, value, words):
    write_table(tmp_path, load_table("table4"), tmp_path, MODELS)
    edit(tmp_path / "table.json", place, value)
    with refused(tmp_path / "table.json", *words.split("; ")):
        read_table(tmp_path)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"table\.json is missing"):
        read_table(tmp_path)
