"""Multi-exit encoders and ACL-CL, after Li and Zhu (2026), arXiv 2602.03563."""

from fairseq_scl.compat.settings import ALLOWED
from fairseq_scl.objectives.multi_exit import (
    roberta_multi_exit,
    sentence_prediction_multi_exit,
)

ALLOWED["model"].add(roberta_multi_exit.NAME)
ALLOWED["criterion"].add(sentence_prediction_multi_exit.NAME)
