"""One criterion a file; importing it registers the criterion with fairseq."""

from fairseq_scl.criterions import (  # noqa: F401
    sentence_prediction_acl,
    sentence_prediction_capcort,
    sentence_prediction_multi_exit,
    sentence_prediction_scl,
)
