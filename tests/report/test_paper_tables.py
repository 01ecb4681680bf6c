"""The transcribed tables, against the paper's text and its averages."""

import hashlib
import math
import os
import re
from pathlib import Path

import pytest

from fairseq_scl.experiments.statistics import Summary, pool
from fairseq_scl.report.paper import paper_tables

HALF_A_DIGIT = 0.05
NOISE = (0.3, 0.5, 0.7, 0.9)
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


def lines(name, table):
    """Render a table as the paper prints it, cells joined by blanks."""
    rows, columns = {}, []
    for cell in table.cells:
        column, *keys = cell.where.values()
        rows.setdefault(tuple(keys), []).append(printed(cell.value))
        shown = "Original" if column == "original" else column
        shown = f"T={column}" if isinstance(column, float) else shown
        columns += [shown] if shown not in columns else []
    averages = {tuple(a.where.values()): printed(a.value) for a in table.averages}
    if averages:
        columns.append("Avg" if name == "table2" else "Average")
    model = [table.model] if HEADS[name].startswith("Model") else []
    found = [" ".join([HEADS[name], *columns])]
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


@pytest.mark.skipif(not SEEDS, reason="FAIRSEQ_SCL_SEEDS names no folder of the paper")
def test_every_digit_is_the_papers():
    (file,) = Path(SEEDS).glob("001*.txt")
    paper = lines_of_paper(file.read_text("utf-8"))
    assert sorted(paper) == [f"table{number}" for number in range(1, 8)]
    for name, table in paper_tables().items():
        assert lines(name, table) == paper[name]
    assert set(paper) - set(paper_tables()) == {"table1", "table6"}


def test_nothing_changed_since_every_digit_was_compared():
    text = "\n".join(line for item in paper_tables().items() for line in lines(*item))
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


# The standard deviations, to one more digit than is printed.
@pytest.mark.parametrize(
    ("task", "loss", "std"),
    [
        ("SST-2", "CE", 1.22),
        ("SST-2", "CE+SCL", 0.94),
        ("QNLI", "CE", 3.46),
        ("QNLI", "CE+SCL", 1.99),
        ("MNLI", "CE", 3.86),
        ("MNLI", "CE+SCL", 4.29),
    ],
)
def test_pooling_with_n_minus_1_gives_every_average_of_table_5(task, loss, std):
    where = {"task": task, "loss": loss}
    found = pool([cell("table5", **where, temperature=t) for t in NOISE])
    average = paper_tables()["table5"].average(**where)
    assert found.count == average.count == 12
    # Cells and average are each rounded to a tenth.
    assert abs(found.mean - average.mean) <= 2 * HALF_A_DIGIT
    assert found.std == pytest.approx(average.std, abs=0.061)
    assert round(found.std, 2) == std


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
