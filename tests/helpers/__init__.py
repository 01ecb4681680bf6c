"""Shared helpers of the tests: toy encoders, data, tables and records."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
