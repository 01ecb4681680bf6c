"""RoBERTa on the real tokens of a batch: no row is computed for padding."""
