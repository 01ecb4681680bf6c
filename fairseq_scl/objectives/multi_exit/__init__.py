"""Multi-exit encoders and ACL-CL, after Li and Zhu (2026), arXiv 2602.03563."""

from fairseq_scl.objectives.multi_exit import (  # noqa: F401
    roberta_multi_exit,
    sentence_prediction_multi_exit,
)
