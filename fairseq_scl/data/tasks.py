"""The tasks of the paper as data: columns, labels, files, sizes and downloads.

Sources: Table 1 of Gunel et al. (2021) for the GLUE tasks, Zhang et al. (2015) for
Amazon-2 and Yelp-2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fairseq_scl.errors import InputError

GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
REVIEWS = "https://s3.amazonaws.com/fast-ai-nlp/"
TRAIN = "train"
HELD_OUT = "held_out"


@dataclass(frozen=True)
class RowFormat:
    """How to get sentences and a label from the rows of a file.

    Attributes:
        format: ``tsv`` (tabs, quotes are ordinary characters), ``csv`` (commas, quoted
            fields with doubled quotes), ``quoted tsv`` (tabs, quoted as ``csv``) or
            ``jsonl`` (one object per line).
        sentences: the columns of each sentence; several are joined by a space.
        label: the column of the label.
        labels: the label for each value of the label column; if empty, the values
            themselves.
        width: number of columns in a file without header, which are then named from 1
            to ``width``; 0 if the first line names the columns.
        no_label: a value that marks rows without a label, which are skipped.
        escaped: whether a backslash and ``n`` stand for a line break.
        leave_out_empty: whether rows with an empty sentence are skipped; otherwise they
            are refused.
    """

    format: str
    sentences: tuple[tuple[str, ...], ...]
    label: str
    labels: Mapping[str, str] = field(default_factory=dict)
    width: int = 0
    no_label: str | None = None
    escaped: bool = False
    leave_out_empty: bool = False


@dataclass(frozen=True)
class Download:
    """URL, size and checksum of a file to download; ``None`` if unknown."""

    url: str
    bytes: int | None
    sha256: str | None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Task:
    """A task of the paper.

    Attributes:
        name: the paper's spelling.
        layout: row format of its files.
        folder: the folder in the official archive.
        files: the files of the training set (``train``) and of the original validation
            set (``held_out``), from which validation and test sets are drawn.
        rows: number of rows in the official files, without a header.
        downloads: the official files.
        balanced: whether few-shot samples have the same number of examples per class;
            otherwise they have the label distribution of the training set.
    """

    name: str
    layout: RowFormat
    folder: str
    files: Mapping[str, str]
    rows: Mapping[str, int]
    downloads: tuple[Download, ...]
    balanced: bool = False


def _glue(
    name: str,
    layout: RowFormat,
    rows: tuple[int, int],
    *downloads: Download,
    dev: str = "dev.tsv",
) -> Task:
    files = {TRAIN: "train.tsv", HELD_OUT: dev}
    sizes = dict(zip((TRAIN, HELD_OUT), rows, strict=True))
    return Task(name, layout, name, files, sizes, downloads)


def _reviews(
    name: str,
    sentences: tuple[str, ...],
    rows: tuple[int, int],
    download: Download,
) -> Task:
    layout = RowFormat(
        "csv",
        (sentences,),
        "1",
        {"1": "negative", "2": "positive"},
        width=1 + len(sentences),
        escaped=True,
        leave_out_empty=True,
    )
    folder = download.name.removesuffix(".tgz")
    files = {TRAIN: "train.csv", HELD_OUT: "test.csv"}
    sizes = dict(zip((TRAIN, HELD_OUT), rows, strict=True))
    return Task(name, layout, folder, files, sizes, (download,), balanced=True)


ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
# The official file of MRPC has both sets; another file lists the ids of the second.
MRPC_BOTH = "msr_paraphrase_train.txt"
MRPC_IDS = "mrpc_dev_ids.tsv"
MRPC_ID_COLUMNS = ("#1 ID", "#2 ID")

TASKS = {
    task.name: task
    for task in (
        _glue(
            "SST-2",
            RowFormat(
                "tsv", (("sentence",),), "label", {"0": "negative", "1": "positive"}
            ),
            (67_349, 872),
            Download(
                GLUE + "SST-2.zip",
                7_439_277,
                "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
            ),
        ),
        _glue(
            "CoLA",
            RowFormat(
                "tsv", (("4",),), "2", {"0": "unacceptable", "1": "acceptable"}, width=4
            ),
            (8_551, 1_043),
            Download(
                GLUE + "CoLA.zip",
                376_971,
                "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
            ),
        ),
        _glue(
            "MRPC",
            RowFormat(
                "tsv",
                (("#1 String",), ("#2 String",)),
                "Quality",
                {"0": "not_equivalent", "1": "equivalent"},
            ),
            (3_668, 408),
            Download(
                SENTEVAL + MRPC_BOTH,
                1_047_044,
                "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
            ),
            Download(
                SENTEVAL + "msr_paraphrase_test.txt",
                441_275,
                "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
            ),
            Download(
                GLUE + MRPC_IDS,
                6_222,
                "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
            ),
        ),
        _glue(
            "RTE",
            RowFormat("tsv", (("sentence1",), ("sentence2",)), "label", ENTAILMENT),
            (2_490, 277),
            Download(
                GLUE + "RTE.zip",
                697_150,
                "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
            ),
        ),
        _glue(
            "QNLI",
            RowFormat("tsv", (("question",), ("sentence",)), "label", ENTAILMENT),
            (104_743, 5_463),
            Download(
                GLUE + "QNLIv2.zip",
                10_627_589,
                "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
            ),
        ),
        _glue(
            "MNLI",
            RowFormat(
                "tsv",
                (("sentence1",), ("sentence2",)),
                "gold_label",
                {n: n for n in ("entailment", "neutral", "contradiction")},
                no_label="-",
            ),
            (392_702, 9_815),
            Download(
                GLUE + "MNLI.zip",
                312_783_507,
                "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
            ),
            dev="dev_matched.tsv",
        ),
        _reviews(
            "Amazon-2",
            ("2", "3"),
            (3_600_000, 400_000),
            Download(
                REVIEWS + "amazon_review_polarity_csv.tgz",
                688_339_454,
                "d2a3ee7a214497a5d1b8eaed7c8d7ba2737de00ada3b0ec46243983efa100361",
            ),
        ),
        _reviews(
            "Yelp-2",
            ("2",),
            (560_000, 38_000),
            Download(
                REVIEWS + "yelp_review_polarity_csv.tgz",
                166_373_201,
                "528f22e286cad085948acbc3bea7e58188416546b0e364d0ae4ca0ce666abe35",
            ),
        ),
    )
}


def find_task(name: str) -> Task:
    """Return a task by its name.

    Raises:
        InputError: there is no task with this name; the message lists all tasks.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}: choose from {', '.join(TASKS)}")
    return TASKS[name]
