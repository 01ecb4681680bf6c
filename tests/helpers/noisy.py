"""Results of a table with flipped labels."""

from fairseq_scl.experiments.results import Attempt, summarize
from helpers.results import make_record, make_table, runs_of


def noisy_results(**settings):
    losses = {
        "CE": {"scl_lambda": 0},
        "CAPCORT": {
            **{"criterion": "sentence_prediction_capcort", "capcort_map": "mlp"},
            "capcort_lambda": [0.01, 0.1],
        },
    }
    found = {"name": "mine", "losses": losses, "flipped": [0, 0.2], "sizes": [100]}
    table = make_table(**{**found, **settings})
    attempts = []
    for run in runs_of(table):
        bonus = 8 * (run.cell["loss"] == "CAPCORT") + run.cell["seed"]
        right = 300 + bonus - int(100 * run.cell["flipped"])
        attempts.append(Attempt(run, make_record(run, 150 + bonus, right)))
    return summarize(table, attempts)
