"""``fairseq-scl report``: Markdown, LaTeX and CSV files, and the command itself."""

import csv
import io
import math
import re
from functools import partial

import pytest

from fairseq_scl.cli import main
from fairseq_scl.experiments.results_folder import read_table
from fairseq_scl.report.csv_rows import as_csv, attempt_rows, cell_rows
from fairseq_scl.report.latex import escape, report_as_latex
from fairseq_scl.report.markdown import report_as_markdown, sheet_as_markdown
from fairseq_scl.report.sheets import Sheet, sheets
from helpers.results import BOTH, attempts_of, make_table, results, write_results


def test_markdown_is_a_table_with_its_signs_escaped():
    sheet = Sheet("x", "a|b", ("n", "v"), (("<i>", "1_0|*"),), notes=("last",))
    assert sheet_as_markdown(sheet).splitlines() == [
        r"**a\|b**",
        "",
        "| n | v |",
        "| --- | ---: |",
        r"| \<i> | 1\_0\|\* |",
        "",
        "last",
    ]
    text = report_as_markdown(sheets(results()), ["it helped"], ["left"], "a:1|b:2")
    assert "| N | loss | SST-2, ours | SST-2, paper |" in text
    assert "\n\n- it helped\n\n- left\n\n" in text
    assert text.endswith("`a:1|b:2`")
    table = text.split("\n\n")[1].splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50% & $5 #1_a", r"50\% \& \$5 \#1\_a"),
        ("{a}~b^c", r"\{a\}\textasciitilde{}b\textasciicircum{}c"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("88.1 ± 3.3", r"88.1 $\pm$ 3.3"),
        ("λ, τ", r"$\lambda$, $\tau$"),
        ("-1.46 to +2.00", "$-$1.46 to +2.00"),
        ("SST-2, CE+SCL − CE", "SST-2, CE+SCL $-$ CE"),
        ("5–4", "5--4"),
        ("<0.001", r"\textless{}0.001"),
    ],
)
def test_latex_is_escaped(text, latex):
    assert escape(text) == latex


def test_latex_is_three_booktabs_tables_of_even_rows():
    text = report_as_latex("my table", sheets(results()), "a:1|b:2\n\\evil")
    assert "% a:1|b:2 \\evil" in text.splitlines()
    assert text.count("\\toprule") == text.count("\\bottomrule") == 3
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 3
    assert "\\label{tab:my-table-accuracies}" in text
    assert "\\cmidrule(lr){3-4}" in text
    assert r"\multicolumn{2}{l}{} & \multicolumn{2}{c}{SST-2} \\" in text
    for tabular in text.split("\\begin{tabular}")[1:]:
        columns = re.match(r"\{([lr]+)\}", tabular)[1]
        body = tabular[tabular.index("\\midrule") : tabular.index("\\bottomrule")]
        for row in body.splitlines()[1:]:
            assert row.count(" & ") == len(columns) - 1
            assert row.endswith(r" \\")


def test_csv_of_cells_has_full_precision():
    rows = list(csv.DictReader(io.StringIO(as_csv(cell_rows(results())))))
    ce, scl = rows
    assert (scl["task"], scl["n"], scl["loss"]) == ("SST-2", "20", "CE+SCL")
    assert float(scl["all_mean"]) == 100 * (310 + 316 + 320 + 324) / 4 / 400
    assert float(scl["difference"]) == 2.875
    assert (scl["t_low"][:5], scl["t_high"][:5]) == ("2.477", "3.272")
    assert (scl["pairs"], scl["won"], scl["lost"]) == ("4", "4", "0")
    assert (scl["paper_mean"], scl["paper_std"]) == ("88.1", "3.3")
    assert (scl["combinations_competing"], scl["combinations_planned"]) == ("1", "4")
    assert (scl["done"], scl["failed"], scl["missing"]) == ("4", "0", "12")
    assert scl["verdict"] == "helped"
    assert (ce["difference"], ce["scl_lambda"], ce["verdict"]) == ("", "", "")
    empty = list(csv.DictReader(io.StringIO(as_csv(cell_rows(results({}))))))
    assert {row["test_mean"] for row in empty} == {""}
    assert as_csv([{"a": math.nan, "b": None, "c": 0}]) == "a,b,c\n,,0\n"


def test_csv_of_runs_has_exact_counts_and_errors():
    counts = {**BOTH, ("CE", None, None, 0): 'out, of "memory"'}
    rows = list(csv.DictReader(io.StringIO(as_csv(attempt_rows(results(counts))))))
    assert len(rows) == 8
    assert rows[0]["state"] == "failed"
    assert rows[0]["error"] == 'out, of "memory"'
    assert rows[0]["test_correct"] == ""
    assert rows[1] == {
        **{"name": "SST-2-n20-CE-sample1", "state": "done", "task": "SST-2"},
        **{"n": "20", "batch_size": "16", "loss": "CE", "scl_lambda": ""},
        **{"scl_temperature": "", "seed": "1", "best_update": "20"},
        **{"valid_correct": "151", "valid_total": "200", "valid_ce_loss": "0.4"},
        **{"test_correct": "304", "test_total": "400", "seconds": "12.5", "error": ""},
    }
    assert as_csv(attempt_rows(results({}))) == ""


@pytest.fixture
def folder(tmp_path):
    table = make_table()
    return write_results(tmp_path / "it's here", table, attempts_of(table, BOTH))


def test_the_command_prints_and_writes(folder, tmp_path, capfd):
    assert main(["report", str(folder)]) == 0
    out = capfd.readouterr().out
    assert "| 20 | CE+SCL | 80.0 ± 1.0 | 88.1 ± 3.3 |" in out
    for name in ("table.md", "table.tex", "table.csv", "runs.csv"):
        assert (folder / name).is_file()
        assert f"wrote {folder / name}" in out
    assert (folder / "table.md").read_text("utf-8") in out
    before = (folder / "table.tex").read_bytes()
    to = tmp_path / "elsewhere"
    assert main(["report", "table4", "--results", str(folder), "--to", str(to)]) == 0
    assert (to / "table.tex").read_bytes() == before
    assert read_table(folder)[0] == make_table()


def test_a_page_that_is_there_is_renewed_with_the_tables(folder):
    assert main(["report", str(folder), "--html"]) == 0
    assert "8 of 20 planned runs" in (folder / "report.html").read_text("utf-8")
    (record, *_) = sorted(folder.glob("runs/*/record.json"))
    record.unlink()
    assert main(["report", str(folder)]) == 0
    assert "7 of 20 planned runs" in (folder / "report.html").read_text("utf-8")


def test_results_lie_in_outputs_by_default(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    table = make_table()
    write_results(tmp_path / "outputs" / "table4", table, attempts_of(table, BOTH))
    assert main(["report", "table4"]) == 0
    assert "wrote outputs/table4/table.md" in capfd.readouterr().out


def test_no_finished_run_is_a_table_of_dashes_and_status_1(tmp_path, capfd):
    table = make_table()
    write_results(tmp_path, table, [])
    assert main(["report", str(tmp_path)]) == 1
    assert "| 20 | CE | – (0 of 4) | 85.9 ± 2.1 |" in capfd.readouterr().out


def test_bad_input_is_one_sentence(folder, tmp_path, monkeypatch, refusal):
    refused = partial(refusal, "report")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    assert "other/table.json is missing" in refused("other")
    assert "there is no table 'table9'" in refused("table9")
    assert "there are no results in outputs/table2" in refused("table2")
    assert "--results nowhere is not a folder" in refused(
        "table4", "--results", "nowhere"
    )
    line = refused("table2", "--results", folder)
    assert "holds results of 'table4', not of 'table2'" in line
    (record, *_) = sorted(folder.glob("runs/*/record.json"))
    record.write_text("{", "utf-8")
    assert f"cannot read {record}" in refused(folder)
    (folder / "table.json").write_text("[]", "utf-8")
    assert "table.json: expected object" in refused(folder)
