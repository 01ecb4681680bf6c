"""Runs, their records, and the paper's rules for selecting and comparing them."""
