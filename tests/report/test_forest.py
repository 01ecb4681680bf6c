"""The recorded differences: their picture, and the table of ``docs/results.md``."""

import re

import pytest
import yaml

from fairseq_scl.errors import InputError
from fairseq_scl.report.forest import forest_plot, read_recorded, recorded_sheet
from fairseq_scl.report.markdown import sheet_as_markdown
from helpers import ROOT
from helpers.outputs import size_of_png

ONE = {"task": "SST-2", "n": 20, "features": "mean", "test_examples": 200}
ONE |= {"ce": [10, 20, 30], "scl": [14, 22, 36]}


def recorded(tmp_path, *entries):
    (tmp_path / "recorded.yaml").write_text(yaml.safe_dump(list(entries)), "utf-8")
    return read_recorded(tmp_path / "recorded.yaml")


def test_counts_give_the_paired_difference_in_points(tmp_path):
    (row,) = recorded_sheet(recorded(tmp_path, ONE)).rows
    # Differences of 2, 1 and 3 points: t(0.975, 2) / sqrt(3) = 2.484.
    assert row[:7] == ("SST-2", "20", "mean", "3", "10.0 ± 5.0", "12.0 ± 5.6", "+2.00")
    assert row[7:] == ("-0.48 to +4.48", "0.074", "3–0")


def test_the_page_has_the_table_of_the_recorded_counts():
    found = read_recorded(ROOT / "docs" / "differences.yaml")
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert sheet_as_markdown(recorded_sheet(found)) in page


def test_the_picture_of_the_page_has_a_line_per_comparison(tmp_path):
    found = read_recorded(ROOT / "docs" / "differences.yaml")
    forest_plot(found, tmp_path / "all.png")
    size = size_of_png(tmp_path / "all.png")
    assert size == size_of_png(ROOT / "docs" / "differences.png")
    forest_plot(found[:-1], tmp_path / "fewer.png")
    assert size_of_png(tmp_path / "fewer.png")[1] < size[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scl": [14, 22]}, "3 samples and scl 2"),
        ({"ce": [1], "scl": [2]}, "at least two"),
        ({"ce": [10, 20, 201]}, "201 correct of 200"),
        ({"features": "pooled"}, "pooled.*cls, mean"),
        ({"n": 0}, "n: .*0"),
    ],
)
def test_an_invalid_entry_is_refused(tmp_path, change, named):
    with pytest.raises(InputError) as error:
        recorded(tmp_path, ONE, ONE | change)
    assert re.search(named, str(error.value))
    assert "recorded.yaml" in str(error.value)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        read_recorded(tmp_path / "nothing.yaml")
    (tmp_path / "broken.yaml").write_text("- [", "utf-8")
    with pytest.raises(InputError, match="broken"):
        read_recorded(tmp_path / "broken.yaml")
