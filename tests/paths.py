"""Paths that tests read from."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
CASE_FILES = Path(__file__).parent / "cases"
