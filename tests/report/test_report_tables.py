"""``fairseq-scl report``: known tables, marks of what is missing, plain words."""

import math
import re

import pytest
from msgspec.structs import replace

from fairseq_scl.experiments.results import (
    HELPED,
    HURT,
    OPEN,
    UNKNOWN,
    Attempt,
    summarize,
)
from fairseq_scl.experiments.statistics import Summary
from fairseq_scl.report.numbers import mean_and_std
from fairseq_scl.report.sheets import accuracies, basis, differences, sheets
from fairseq_scl.report.signature import mixed_settings, table_signature
from fairseq_scl.report.words import remarks, verdicts
from helpers.results import (
    BOTH,
    CE,
    GRID,
    SCL,
    attempts_of,
    make_record,
    make_table,
    results,
    runs_of,
)


def with_records(change):
    """Return the records of the made-up table, each after a change."""
    return [
        replace(a.record, **change(a.record))
        for a in attempts_of(make_table(), BOTH)
        if a.record
    ]


def test_our_results_are_next_to_the_papers():
    sheet = accuracies(results())
    assert sheet.groups == (("", 2), ("SST-2", 2))
    assert sheet.header == ("N", "loss", "ours", "paper")
    assert sheet.rows == (
        ("20", "CE", "77.0 ± 1.0", "85.9 ± 2.1"),
        ("20", "CE+SCL", "80.0 ± 1.0", "88.1 ± 3.3"),
    )
    assert "Table 4" in sheet.notes[1]
    assert "RoBERTa-Large" in sheet.notes[1]


def test_a_table_without_published_results_has_no_paper_column():
    sheet = accuracies(results(name="mine"))
    assert sheet.header == ("N", "loss", "ours")
    assert not any("Gunel" in note for note in sheet.notes)
    sheet = accuracies(results(sizes=[50]))  # a size that the paper has not
    assert sheet.rows[0] == ("50", "CE", "77.0 ± 1.0", "")


def test_what_is_missing_is_marked_and_no_number_is_made_up():
    counts = {key: c for key, c in BOTH.items() if key[0] == "CE+SCL" or key[3] < 2}
    counts["CE+SCL", 0.9, 0.3, 0] = "out of memory"
    first = accuracies(results(counts)).rows
    assert [row[2] for row in first] == ["– (2 of 4)", "80.0 ± 1.0 (3 of 4)"]
    empty = results({})
    assert [row[2] for row in accuracies(empty).rows] == ["– (0 of 4)"] * 2
    assert basis(empty).rows[1] == (
        *("SST-2", "20", "CE+SCL", "–", "–", "0 of 4", "0 of 4", "–", "–"),
        *("0", "0", "16"),
    )
    assert differences(empty).rows == (
        ("SST-2", "20", "CE+SCL − CE", "0 of 4", *["–"] * 6, "unknown"),
    )


@pytest.mark.parametrize(
    ("selection", "count", "rule", "missing"),
    [
        ("few-shot", 1, "the only sample", "– means that too few runs have finished"),
        ("few-shot", 3, "of all 3 samples.", "– means that too few runs have finished"),
        (
            "few-shot",
            10,
            "the 3 of 10 samples with the best",
            "(9 of 10) means that one",
        ),
        ("full-data", 1, "the only seed", "– means that too few runs have finished"),
        ("full-data", 2, "the one of 2 seeds with the best", "(1 of 2) means that one"),
    ],
)
def test_the_note_of_our_accuracies_is_true_of_any_count(
    selection, count, rule, missing
):
    sizes = [20] if selection == "few-shot" else ["full"]
    table = results({}, selection=selection, repetitions=count, sizes=sizes)
    note = accuracies(table).notes[0]
    assert rule in note
    assert missing in note


ONE = {"scl_lambda": 0.9, "scl_temperature": 0.3}


@pytest.mark.parametrize(
    ("first", "second", "favored"),
    [
        (ONE, GRID, "CE+SCL"),
        (GRID, ONE, "CE"),
        (GRID, GRID, None),
        (ONE, ONE, None),
    ],
)
def test_a_note_says_which_loss_had_more_options_to_choose_from(first, second, favored):
    table = make_table(losses={"CE": first, "CE+SCL": second})
    records = [Attempt(run, make_record(run, 150, 300)) for run in runs_of(table)]
    (note,) = differences(summarize(table, records)).notes
    assert ("more combinations" in note) == (favored is not None)
    if favored:
        assert f" The options of {favored} are chosen from more combinations" in note


def test_a_table_of_one_loss_has_no_differences():
    alone = results(CE, losses={"CE": {"scl_lambda": 0}})
    assert [sheet.name for sheet in sheets(alone)] == ["accuracies", "runs"]
    assert [sheet.name for sheet in sheets(results())][2:] == ["differences"]


def test_the_number_of_runs_is_shown_with_each_result():
    rows = basis(results()).rows
    assert rows[0][:9] == (
        *("SST-2", "20", "CE", "–", "–", "1 of 1", "4 of 4", "76.5 ± 1.3", "0"),
    )
    assert rows[1] == (
        *("SST-2", "20", "CE+SCL", "0.9", "0.3", "1 of 4", "4 of 4", "79.4 ± 1.5"),
        *("0", "4", "0", "12"),
    )


def test_differences_have_both_intervals_and_p_values():
    (row,) = differences(results()).rows
    assert row[:5] == ("SST-2", "20", "CE+SCL − CE", "4 of 4", "+2.88")
    assert row[5] == "+2.48 to +3.27"  # 2.875 ± t(3) · 0.25 / 2
    assert row[7:] == ("<0.001", "0.125", "4–0", "above 0")


@pytest.mark.parametrize(
    ("gain", "varies", "said"),
    [
        (12, 1, "helped, +3.00 points on 4 of 4 pairs; the 95% intervals are above 0."),
        (-12, 1, "hurt, -3.00 points on 4 of 4 pairs; the 95% intervals are below 0."),
        (0, 1, "shows no clear difference, +0.00 points on 4 of 4 pairs; 0 is within "),
        (12, 0, "cannot be judged: +3.00 points on 4 of 4 pairs; the same difference"),
    ],
)
def test_words_report_whether_it_helped(gain, varies, said):
    counts = {
        ("CE+SCL", 0.9, 0.3, seed): (160, test + gain + varies * (-1) ** seed)
        for (_, _, _, seed), (_, test) in CE.items()
    }
    ((kind, sentence),) = verdicts(results({**CE, **counts}))
    assert kind == ({12: HELPED, -12: HURT, 0: OPEN}[gain] if varies else UNKNOWN)
    start = "SST-2, N = 20: CE+SCL (λ = 0.9, τ = 0.3, chosen from 1 of 4 combinations)"
    assert sentence.startswith(f"{start} {said}")


@pytest.mark.parametrize("lost", [0, 3])
def test_words_say_how_many_runs_learned_nothing(lost):
    """Toy results are of 200 validation and 400 test examples in two even classes."""
    counts = {
        ("CE+SCL", 0.9, 0.3, seed): (100, 200) if number < lost else (160, test)
        for number, ((_, _, _, seed), (_, test)) in enumerate(CE.items())
    }
    ((_, sentence),) = verdicts(results({**CE, **counts}))
    assert ("3 of 4 runs of CE+SCL" in sentence) == bool(lost)
    assert ("Caution" in sentence) == bool(lost)


def test_words_report_unknown_results():
    assert verdicts(results(CE, sizes=[20, 100])) == [
        (
            UNKNOWN,
            "Unknown, because no sample has finished with both losses: SST-2, N = 20; "
            "SST-2, N = 100.",
        )
    ]
    counts = {("CE", None, None, s): (150, 300) for s in (0, 1, 2)}
    counts |= {("CE+SCL", 0.9, 0.3, s): (150, 304) for s in (2, 3)}
    counts["CE+SCL", 0.9, 0.3, 1] = None
    full = results(
        {k: c for k, c in counts.items() if c and k[3] != 1},
        selection="full-data",
        sizes=["full"],
    )
    # Full-data selection compares means over all seeds: none has all four.
    ((kind, sentence),) = verdicts(full)
    assert kind == UNKNOWN
    assert "+1.00 points on 1 of 4 pairs; an interval needs two" in sentence


def test_two_pairs_of_three_samples_are_compared():
    """The paper's rule needs three runs; a paired difference does not."""
    counts = {k: c for k, c in BOTH.items() if k[3] < 2 or k[0] == "CE"}
    losses = {
        "CE": {"scl_lambda": 0},
        "CE+SCL": {key: v[-1] for key, v in GRID.items()},
    }
    counts.pop(("CE", None, None, 3))
    found = results(counts, losses=losses, repetitions=3)
    ((kind, sentence),) = verdicts(found)
    assert kind == OPEN
    assert "+2.75 points on 2 of 3 pairs" in sentence
    assert differences(found).rows[0][3] == "2 of 3"
    assert [row[-1] for row in accuracies(found).rows[:1]] == ["85.9 ± 2.1"]
    assert accuracies(found).rows[1][2] == "– (2 of 3)"
    assert basis(found).rows[1][6:8] == ("2 of 3", "78.2 ± 1.1")


def test_words_say_that_options_cannot_be_chosen_yet():
    counts = {k: c for k, c in BOTH.items() if k[3] < 2 or k[0] == "CE"}
    assert verdicts(results(counts)) == [
        (
            UNKNOWN,
            "Unknown, because too few runs of CE+SCL have finished to choose its "
            "options: SST-2, N = 20.",
        )
    ]


@pytest.mark.parametrize(
    ("known", "said"), [({}, "SST-2, N = 20."), (SCL, "SST-2, N = 20, other.")]
)
def test_a_cell_without_known_losses_is_named_once(known, said):
    losses = {"CE": {"scl_lambda": 0}, "CE+SCL": GRID, "other": GRID}
    table = make_table(losses=losses)
    *_, (kind, sentence) = verdicts(summarize(table, attempts_of(table, CE | known)))
    assert kind == UNKNOWN
    assert sentence.endswith(f"both losses: {said}")


def test_failed_and_missing_runs_are_reported():
    assert remarks(results(SCL | {("CE", None, None, 0): "died"})) == [
        "Of 20 planned runs: 4 finished, 1 failed, 15 missing, as listed by cell below."
    ]
    full = make_table(losses={"CE": {"scl_lambda": 0}})
    assert remarks(summarize(full, attempts_of(full, CE))) == []


def test_average_over_the_tasks_of_table_2():
    tasks = ["SST-2", "CoLA", "MRPC", "RTE", "QNLI", "MNLI"]
    settings = {"selection": "full-data", "sizes": ["full"], "name": "table2"}
    sheet = accuracies(results(tasks=tasks, **settings))
    assert sheet.groups[-1] == ("average", 2)
    assert sheet.rows[0][-2:] == ("78.0", "89.7")
    assert sheet.rows[1][:3] == ("CE+SCL", "81.0", "95.9")
    # No average of some of the tasks.
    table = make_table(tasks=tasks, **settings)
    attempts = [
        Attempt(a.run) if a.run.cell["task"] == "RTE" else a
        for a in attempts_of(table, BOTH)
    ]
    sheet = accuracies(summarize(table, attempts))
    assert sheet.rows[0][-2:] == ("– (5 of 6)", "89.7")
    sheet = accuracies(results(tasks=tasks[:5], **settings))
    assert sheet.groups[-1] == ("QNLI", 2)


def test_table_3_has_a_row_a_batch_size():
    settings = {"selection": "full-data", "sizes": ["full"], "name": "table3"}
    sheet = accuracies(results(batch_sizes=[16, 64], **settings))
    assert sheet.header == ("batch", "loss", "ours", "paper")
    assert sheet.rows == (
        ("16", "CE", "78.0", ""),
        ("16", "CE+SCL", "81.0", "93.9"),
        ("64", "CE", "78.0", ""),
        ("64", "CE+SCL", "81.0", "94.2"),
    )


def test_signature_of_a_table():
    line = table_signature(make_table(), with_records(lambda record: {}))
    parts = dict(part.split(":") for part in line.split("|"))
    assert parts["table"] == "table4"
    assert parts["samples"] == "4"
    assert parts["updates"] == "40"
    assert parts["torch"] == "2.13.0"
    assert parts["commit"] == "01234567"
    assert re.fullmatch("[0-9a-f]{8}", parts["data"])
    assert table_signature(make_table(), []) == "table:table4|protocol:1|samples:4"


def test_signature_shows_what_differs():
    records = with_records(lambda record: {})
    other = with_records(
        lambda record: {
            "origin": {
                **record.origin,
                "versions": {"torch": "2.14.0", "fairseq": "0.12.2"},
                "changed_files": 2,
            },
            "settings": {**record.settings, "device": "cuda"},
        }
    )
    mixed = [*records[:2], *other[2:]]
    line = table_signature(make_table(), mixed)
    assert "|torch:2.13.0,2.14.0|" in line
    assert "|device:cpu,cuda|" in line
    assert line.endswith("|commit:01234567,01234567+")
    assert mixed_settings(records) == []
    assert mixed_settings(mixed) == [
        "device: cpu, cuda",
        "torch: 2.13.0, 2.14.0",
        "commit: 01234567, 01234567+",
    ]


def test_signature_names_rare_settings_that_are_not_the_default():
    changed = {"cuda_graphs": True, "max_positions": 64, "head_pooling": "mean"}
    records = with_records(lambda record: {})
    other = with_records(lambda record: {"settings": {**record.settings, **changed}})
    names = ("pooling:", "positions:", "chunk:", "packed:", "graphs:", "valid_steps:")
    assert not any(name in table_signature(make_table(), records) for name in names)
    line = table_signature(make_table(), other)
    assert "|pooling:mean|positions:64|graphs:True|" in line
    assert mixed_settings([*records, *other])[0] == "head_pooling: cls, mean"


def test_signature_covers_the_options_of_losses_and_the_code_of_user_dir():
    def parts(table, records):
        line = table_signature(table, records)
        return dict(part.split(":") for part in line.split("|"))

    records = with_records(lambda record: {})
    table = make_table()
    balanced = {"scl_lambda": 0, "class_weights": "balanced"}
    changed = make_table(losses={"CE": balanced, "CE+SCL": GRID})
    other = parts(changed, records)
    assert other["losses"] != parts(table, records)["losses"]
    assert "user_dir" not in other
    sums = {"user_dir": "fedcba9876543210"}
    own = with_records(
        lambda record: {
            "origin": {**record.origin, "sha256": {**record.origin["sha256"], **sums}}
        }
    )
    assert parts(table, own)["user_dir"] == "fedcba98"


def test_the_data_of_a_signature_covers_all_folders():
    def of(records):
        return re.search(r"data:(\w+)", table_signature(make_table(), records))[1]

    records = with_records(lambda record: {})
    assert of(records) == of(records[::-1])
    assert of(records) != of(records[1:4])
    assert of(records[1:2]) == "00000000"  # one folder: the start of its checksum


def test_digits():
    assert mean_and_std(None) == ""
    assert mean_and_std(Summary(95.94, math.nan, 1)) == "95.9"
    assert mean_and_std(Summary(88.06, 3.25, 3)) == "88.1 ± 3.2"


def test_tables_of_a_smoke_run_are_marked():
    training = {"updates": 2, "validations": 1, "max_valid_steps": 1}
    sheet = accuracies(results(training=training))
    assert "Only 1 batch of each validation" in sheet.notes[-1]
