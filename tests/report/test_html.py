"""The page of a report: whole, escaped, without a link outside; seen by a browser."""

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ET

import pytest
from msgspec.structs import replace

from fairseq_scl.experiments.results import summarize
from fairseq_scl.experiments.tables import load_table
from fairseq_scl.report import html as report_html
from fairseq_scl.report.charts import curves, heat_map, paired_dots
from fairseq_scl.report.sheets import Sheet
from helpers import run_process
from helpers.html import Reader
from helpers.results import attempts_of, make_table, random_attempts

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# One transparent pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJ"
    "RU5ErkJggg=="
)
EVIL = "<script>alert('x')</script> & $x^2$"


@pytest.fixture(scope="module")
def big():
    """Results like real ones: three cells, an unfinished grid, failures."""
    table = replace(load_table("table4"), sizes=(20,))
    return summarize(table, random_attempts(table))


@pytest.fixture(scope="module")
def page(big, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    (folder / "figures").mkdir()
    (folder / "figures" / "figure <2>.png").write_bytes(PIXEL)
    scores = {
        "schema": 1,
        "panels": [{"row": "N = 20", "name": "CE", "silhouette": 0.1234}],
    }
    (folder / "figures" / "figure <2>.json").write_text(json.dumps(scores), "utf-8")
    return report_html.page(big, folder)


def small(loss="CE+SCL", counts=None, **settings):
    table = make_table(**settings)
    found = {("CE", None, None, s): (150 + s, 300 + s) for s in range(4)}
    found |= {(loss, 0.9, 0.3, s): (160 + s, 312 - s) for s in range(4)}
    found |= {(loss, 0.5, 0.3, s): (150 + s, 300) for s in range(2)}
    return summarize(table, attempts_of(table, {**found, **(counts or {})}))


def test_the_page_is_self_contained(page):
    read = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(read.ids) == len(set(read.ids))
    inside = ("#", "data:image/png;base64,")
    assert [link for link in read.links if not link.startswith(inside)] == []
    assert "script" not in read.tags
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    addresses = set(re.findall(r"https?://[^\s\"<]+", page))
    # Names of XML, not places: nothing is fetched from them.
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert used <= set(read.ids)


def test_the_page_shows_what_there_is(page):
    read = Reader(page)
    for heading in (
        "Did it help?",
        "Choices and runs behind the accuracies",
        "Failed runs",
        "Features (t-SNE)",
        "How it was made",
    ):
        assert heading in read.text
    # Of each of two cells: dots, three curves, a heat map.
    assert read.tags.count("svg") == 10
    assert "174 of 750 planned runs have finished" in read.text
    assert "SST-2-n20-CE-sample7: RuntimeError: <b>out of memory</b>" in read.text
    assert "figure <2>: silhouette N = 20 CE 0.123" in read.text
    command = "fairseq-train 'a folder/data' --criterion sentence_prediction_scl"
    assert f"{command} --scl-lambda 0" in read.text
    assert "table:table4|protocol:1|samples:10|" in read.text
    assert "– (0 of 10)" in read.text
    assert "The chosen one, by its best 3 runs, is framed." in read.text


def test_everything_is_escaped(tmp_path):
    name = EVIL.replace("/", "")  # with it, it is refused
    losses = {"CE": {"scl_lambda": 0}, name: make_table().losses["CE+SCL"]}
    losses[name] = {key: list(values) for key, values in losses[name].items()}
    result = small(
        name,
        {("CE", None, None, 0): EVIL},
        losses=losses,
        tasks=[name],
        caption=EVIL,
        name="<mine>",
    )
    read = Reader(report_html.page(result, tmp_path))
    assert "script" not in read.tags
    # Caption and error; task in the table, name of a cell, labels of charts.
    assert read.text.count(EVIL) >= 2
    assert read.text.count(name) > 6


def test_a_page_without_finished_runs_has_no_charts(tmp_path):
    table = make_table()
    read = Reader(report_html.page(summarize(table, attempts_of(table, {})), tmp_path))
    assert "svg" not in read.tags
    assert "Unknown, because no sample has finished with both losses" in read.text
    assert "0 of 20 planned runs have finished" in read.text


def test_the_verdict_has_the_color_of_its_kind(tmp_path):
    assert '<li class="helped">' in report_html.page(small(), tmp_path)


def test_a_sheet_has_all_of_its_cells():
    sheet = Sheet("x", "t", ("a", "b"), (("1", "<2>"),), (("g", 2),), 1, ("note",))
    text = report_html.sheet_as_html(sheet)
    assert '<th colspan="2" scope="colgroup">g</th>' in text
    assert '<tr><td class="name">1</td><td>&lt;2&gt;</td></tr>' in text
    assert '<p class="soft">note</p>' in text


def texts_of(svg):
    """Return the texts of a chart, which is well-formed XML."""
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(one.itertext()) for one in found]


def test_charts_are_svg_with_text_in_the_color_of_the_page():
    (cell,) = small().cells
    svg = paired_dots(cell)
    assert svg.startswith('<svg role="img" aria-label="test accuracy of each run')
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "width=" not in svg[: svg.index(">")]
    assert {"CE", "CE+SCL", "test accuracy (%)"} <= set(texts_of(svg))
    assert svg == paired_dots(cell)


def test_curves_name_the_temperature_of_the_term():
    (cell,) = small().cells
    assert "CE+SCL" in texts_of(curves(cell, "accuracy"))
    assert "CE+SCL, at τ = 0.3" in texts_of(curves(cell, "scl_loss"))


def test_heat_map_shows_means_counts_and_gaps():
    result = small()
    scl = result.find(task="SST-2", n=20, batch_size=16, loss="CE+SCL")
    texts = texts_of(heat_map(scl))
    # (160 + … + 163) / 4 and (150 + 151) / 2 answers of 200; two never run.
    assert "80.8 (4)" in texts
    assert "75.2 (2)" in texts
    assert texts.count("–") == 2
    ce = result.find(task="SST-2", n=20, batch_size=16, loss="CE")
    assert heat_map(ce) is None


# What a browser says of each frame: is anything wider than what it is in?
PROBE = """<script>
const found = [];
for (const e of document.querySelectorAll("main *:not(svg *)")) {
  const box = e.getBoundingClientRect();
  const inside = e.closest(".scroll") && !e.matches(".scroll");
  if (!inside && (box.right > innerWidth + 1 || box.left < -1)) found.push(e.tagName);
}
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  for (const e of svg.querySelectorAll("text")) {
    const box = e.getBoundingClientRect();
    if (box.right > frame.right + 1 || box.left < frame.left - 1
        || box.bottom > frame.bottom + 1 || box.top < frame.top - 1) {
      found.push("text " + e.textContent);
    }
  }
}
const root = document.documentElement;
parent.postMessage({width: innerWidth, over: root.scrollWidth - root.clientWidth,
  height: root.scrollHeight, found}, "*");
</script></body>"""
FRAMES = """<!DOCTYPE html><body><pre></pre><script>
const all = [];
addEventListener("message", (message) => { all.push(message.data);
  document.querySelector("pre").textContent = JSON.stringify(all); });
</script>
<iframe src="page.html" style="border:0;width:400px;height:900px"></iframe>
<iframe src="page.html" style="border:0;width:1280px;height:900px"></iframe></body>"""


def browse(folder, *options):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars", *options]
    return run_process(*command, cwd=folder).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)")
def test_the_page_fits_into_a_browser_window(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE), "utf-8")
    (tmp_path / "frames.html").write_text(FRAMES, "utf-8")
    address = f"file://{tmp_path}/frames.html"
    options = ("--virtual-time-budget=20000", "--dump-dom", address)
    dom = browse(tmp_path, "--window-size=1400,1000", *options)
    found = re.search(r"<pre>(.*?)</pre>", dom, re.DOTALL)
    assert found, dom
    frames = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<"))
    assert sorted(frame["width"] for frame in frames) == [400, 1280]
    for frame in frames:
        assert frame["over"] <= 0
        assert frame["found"] == []
    picture = tmp_path / "page.png"
    shot = f"--screenshot={picture}"
    browse(tmp_path, "--window-size=1280,2000", shot, f"file://{tmp_path}/page.html")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 50_000  # not an empty page
