"""Large contrastive batches: gradient caching, and a gather across workers."""
