"""Texts, labels, splits, tokenizers and fairseq's binary format."""
