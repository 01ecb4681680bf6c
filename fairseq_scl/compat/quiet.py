"""Leaving out of a log what fairseq tells about itself: settings, modules, files."""

import logging
import os
import warnings

VARIABLE = "FAIRSEQ_SCL_LOG"
HYDRA = r"(?s).*([Hh]ydra|version_base|package header|strict flag|ConfigStore)"


def quieten() -> None:
    """Keep losses, validations, warnings and our own lines of the logs of a run.

    Applies to the handlers that the root logger has now. ``FAIRSEQ_SCL_LOG=all`` keeps
    everything.
    """
    if os.environ.get(VARIABLE) == "all":
        return
    warnings.filterwarnings("ignore", HYDRA, UserWarning)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    of_fairseq = record.name.partition(".")[0] in ("fairseq", "fairseq_cli")
    return (
        not of_fairseq
        or record.levelno >= logging.WARNING
        or record.getMessage().startswith("done training")
    )
