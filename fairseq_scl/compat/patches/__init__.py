"""Changes to fairseq itself. One fault per file, each with an ``apply`` function."""

from fairseq_scl.compat.patches import (
    amp_unscaling,
    bf16_without_tpu,
    checkpoint_loading,
    classifier_ddp,
    dummy_batches,
    inference_fast_path,
    missing_restore_file,
    out_of_memory,
    restoring_workers,
    whole_help,
)


def patch_fairseq() -> None:
    """Apply every patch; a second call changes nothing."""
    for patch in (
        amp_unscaling,
        bf16_without_tpu,
        checkpoint_loading,
        classifier_ddp,
        dummy_batches,
        inference_fast_path,
        missing_restore_file,
        out_of_memory,
        restoring_workers,
        whole_help,
    ):
        patch.apply()
