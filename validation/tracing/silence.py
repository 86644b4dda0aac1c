"""Keeps the libraries' remarks about a machine without a GPU out of the output."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Silence what transformers, peft and bitsandbytes log and warn of below an error."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
