"""Texts, labels, splits, tokenisers and fairseq's binary folders."""
