"""Silences the libraries' messages about a machine without a GPU."""

from __future__ import annotations

import logging
import warnings


def silence_libraries() -> None:
    """Turn off the warnings of transformers, PEFT and bitsandbytes, and their log messages below errors."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
