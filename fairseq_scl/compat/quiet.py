"""Filter what fairseq logs about itself: settings, modules, files."""

import logging
import os
import warnings

VARIABLE = "FAIRSEQ_SCL_LOG"
HYDRA = r"(?s).*([Hh]ydra|version_base|package header|strict flag|ConfigStore)"


def quieten() -> None:
    """Log only losses, validations, warnings and our own lines of a run.

    This applies to the current handlers of the root logger. ``FAIRSEQ_SCL_LOG=all``
    disables the filter.
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
