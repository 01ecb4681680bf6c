"""The transcribed tables, against the paper's text, its averages and its claims."""

import hashlib
import itertools
import math
import os
import re
from pathlib import Path

import pytest
import yaml
from scipy import stats

from fairseq_scl.experiments.statistics import Summary, pool
from fairseq_scl.report.paper import TABLES, paper_tables

HALF_A_DIGIT = 0.05
NOISE = (0.3, 0.5, 0.7, 0.9)
TABLE_5_ROWS = list(itertools.product(("SST-2", "QNLI", "MNLI"), ("CE", "CE+SCL")))
# What heads a printed table whose rows our keys tell apart.
HEADS = {
    "table2": "Model Loss",
    "table3": "Model Loss Bsz",
    "table4": "Model Loss N",
    "table5": "Dataset Loss",
    "table7": "Model Loss N",
}
# Of the tables as `lines` renders them, taken when they were equal to the paper.
PINNED = "aa876059fdf48fdf737e40de4608b740d38f1d9a10ecd264245a8a328909ee30"
SEEDS = os.environ.get("FAIRSEQ_SCL_SEEDS")


def printed(value):
    if math.isnan(value.std):
        return f"{value.mean:.1f}"
    return f"{value.mean:.1f}±{value.std:.1f}"


def lines(table):
    """Render a table as the paper prints it, cells joined by blanks."""
    rows, columns = {}, []
    for cell in table.cells:
        column, *keys = cell.where.values()
        rows.setdefault(tuple(keys), []).append(printed(cell.value))
        name = "Original" if column == "original" else column
        name = f"T={column}" if isinstance(column, float) else name
        columns += [name] if name not in columns else []
    averages = {tuple(a.where.values()): printed(a.value) for a in table.averages}
    if averages:
        columns.append("Avg" if table.name == "table2" else "Average")
    model = [table.model] if HEADS[table.name].startswith("Model") else []
    found = [" ".join([HEADS[table.name], *columns])]
    for keys, cells in rows.items():
        average = [averages[keys]] if keys in averages else []
        found.append(" ".join([*model, *map(str, keys), *cells, *average]))
    return found


def lines_of_paper(text):
    """Cut the tables out of the paper's text: cells between tabs, caption below."""
    found, block = {}, []
    for line in text.splitlines():
        if caption := re.match(r"Table (\d):", line):
            found[f"table{caption[1]}"] = block
            block = []
        elif "\t" in line:
            cells = re.sub(r"RoBERTa _\{(\w+)\}", r"RoBERTa-\1", line).split("\t")
            block.append(" ".join(cell.replace(" ", "") for cell in cells))
    return found


def cell(table, **where):
    return paper_tables()[table].find(**where)


def gain(table, **where):
    """CE + SCL minus CE, as one would subtract what is printed."""
    find = paper_tables()[table].find
    difference = find(loss="CE+SCL", **where).mean - find(loss="CE", **where).mean
    return round(difference, 1)


@pytest.mark.skipif(not SEEDS, reason="FAIRSEQ_SCL_SEEDS names no folder of the paper")
def test_every_digit_is_the_papers():
    (file,) = Path(SEEDS).glob("001*.txt")
    paper = lines_of_paper(file.read_text("utf-8"))
    assert sorted(paper) == [f"table{number}" for number in range(1, 8)]
    for name, table in paper_tables().items():
        assert lines(table) == paper[name]
    assert set(paper) - set(paper_tables()) == {"table1", "table6"}


def test_nothing_changed_since_every_digit_was_compared():
    text = "\n".join(line for table in paper_tables().values() for line in lines(table))
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


def test_no_key_is_written_twice():
    """A YAML loader lets the last one win, silently."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), node.start_mark
            return super().construct_mapping(node, deep)

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    yaml.load(TABLES.read_text("utf-8"), Loader)
    for table in paper_tables().values():
        places = [str(sorted(c.where.items())) for c in table.cells]
        assert len(places) == len(set(places))


def test_gains_are_those_that_the_text_claims():
    """Sections 5.1 to 5.4 and the introduction."""
    full = [gain("table2", task=t) for t in ("SST-2", "CoLA", "QNLI")]
    assert full == [1.2, 0.9, 0.9]
    few = [gain("table4", task=t, n=20) for t in ("QNLI", "MNLI", "SST-2")]
    assert few == [10.7, 3.4, 2.2]
    assert gain("table4", task="MNLI", n=100) == 1.9
    assert gain("table4", task="QNLI", n=100) == 0.6
    average = paper_tables()["table5"].average
    noisy = [
        average(task=t, loss="CE+SCL").mean - average(task=t, loss="CE").mean
        for t in ("SST-2", "QNLI", "MNLI")
    ]
    assert noisy == pytest.approx([0.4, 2.5, 7.0])
    assert gain("table7", task="Amazon-2", n=40) == 2.9
    assert gain("table7", task="Yelp-2", n=40) == 0.4


@pytest.mark.parametrize(("task", "loss"), TABLE_5_ROWS)
def test_unaugmented_column_of_table_5_is_table_4_at_100(task, loss):
    original = cell("table5", task=task, loss=loss, temperature="original")
    assert original == cell("table4", task=task, loss=loss, n=100)


@pytest.mark.parametrize("loss", ["CE", "CE+SCL"])
def test_averages_of_table_2_follow_from_its_cells(loss):
    means = [
        c.value.mean for c in paper_tables()["table2"].cells if c.where["loss"] == loss
    ]
    average = paper_tables()["table2"].average(loss=loss)
    assert len(means) == average.count == 6
    # In whole tenths: 89.65 is halfway, and printed as 89.7.
    total = sum(round(10 * mean) for mean in means)
    assert math.floor(total / 6 + 0.5) == round(10 * average.mean)


def table_5_row(task, loss):
    cells = [
        cell("table5", task=task, loss=loss, temperature=temperature)
        for temperature in NOISE
    ]
    return cells, paper_tables()["table5"].average(task=task, loss=loss)


@pytest.mark.parametrize(("task", "loss"), TABLE_5_ROWS)
def test_pooling_with_n_minus_1_gives_every_average_of_table_5(task, loss):
    cells, average = table_5_row(task, loss)
    assert [c.count for c in cells] == [3] * 4
    assert average.count == 12
    assert pool(cells).count == 12
    # Cells and average are each rounded to a tenth.
    assert abs(pool(cells).mean - average.mean) <= 2 * HALF_A_DIGIT
    assert pool(cells).std == pytest.approx(average.std, abs=0.061)


def test_pooled_stds_of_table_5_to_two_digits():
    found = [round(pool(table_5_row(*row)[0]).std, 2) for row in TABLE_5_ROWS]
    assert found == [1.22, 0.94, 3.46, 1.99, 3.86, 4.29]


@pytest.mark.parametrize(
    ("task", "t"), [("SST-2", 0.97), ("MNLI", 1.12), ("QNLI", 3.56)]
)
def test_most_gains_at_20_are_within_noise(task, t):
    ce, scl = (cell("table4", task=task, loss=x, n=20) for x in ("CE", "CE+SCL"))
    found = stats.ttest_ind_from_stats(
        *(scl.mean, scl.std, 3), *(ce.mean, ce.std, 3), equal_var=False
    )
    assert found.statistic == pytest.approx(t, abs=0.006)
    assert (found.pvalue < 0.05) == (task == "QNLI")


def test_look_up_by_name():
    assert cell("table7", task="Amazon-2", loss="CE", n=40) == Summary(87.4, 6.4, 3)
    noisy = cell("table5", task="QNLI", loss="CE", temperature=0.9)
    assert noisy == Summary(75.9, 4.0, 3)
    single = cell("table3", task="QNLI", loss="CE+SCL", batch_size=256)
    assert (single.mean, single.count) == (92.9, 1)
    assert math.isnan(single.std)
    assert paper_tables()["table3"].model == "RoBERTa-Base"


def test_what_the_paper_does_not_have_is_none():
    assert cell("table4", task="CoLA", loss="CE", n=20) is None
    assert cell("table4", task="SST-2", loss="CE", n=50) is None
    assert paper_tables()["table2"].average(loss="SCL") is None
    assert paper_tables()["table3"].average(loss="CE+SCL") is None
    assert cell("table4", task="SST-2", loss="CE") is None  # of which size?
