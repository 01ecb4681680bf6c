"""Imported once by the forkserver: its forks have what this imports and parses."""

import gc
import importlib

gc.disable()  # all of this stays
for name in (
    *("fairseq_scl", "fairseq_cli.train", "fairseq_cli.hydra_train"),
    # The first optimizer of a process imports it: longer than a toy training.
    "torch._dynamo",
    # Functions of test modules need these: SciPy, scikit-learn and transformers.
    *("pytest", "fairseq_scl.cli.run", "helpers.encoders"),
):
    importlib.import_module(name)
training = importlib.import_module("helpers.training")
criteria = importlib.import_module("fairseq.criterions").CRITERION_REGISTRY
for name in filter(lambda name: name.startswith("sentence_prediction"), criteria):
    for flags in ([], training.OF_A_RUN):
        line = training.command_line(["data", *flags, "--criterion", name])
        training.settings(tuple(line))
gc.freeze()
gc.enable()
