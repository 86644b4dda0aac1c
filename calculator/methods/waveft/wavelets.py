"""The wavelets that PEFT supports, and the lengths of their filters.

Source: peft 0.21, tuners/waveft/constants.py, WAVELET_REDUCTIONS, each of which is its filter's length - 2.
"""

from __future__ import annotations

import re
from typing import Literal

Wavelet = Literal[
    "db1",
    "db2",
    "db3",
    "db4",
    "db5",
    "db6",
    "db7",
    "db8",
    "db9",
    "db10",
    "db11",
    "db12",
    "db13",
    "db14",
    "db15",
    "db16",
    "db17",
    "db18",
    "db19",
    "db20",
    "db21",
    "db22",
    "db23",
    "db24",
    "db25",
    "db26",
    "db27",
    "db28",
    "db29",
    "db30",
    "db31",
    "db32",
    "db33",
    "db34",
    "db35",
    "db36",
    "db37",
    "db38",
    "sym2",
    "sym3",
    "sym4",
    "sym5",
    "sym6",
    "sym7",
    "sym8",
    "sym9",
    "sym10",
    "sym11",
    "sym12",
    "sym13",
    "sym14",
    "sym15",
    "sym16",
    "sym17",
    "sym18",
    "sym19",
    "sym20",
    "coif1",
    "coif2",
    "coif3",
    "coif4",
    "coif5",
    "coif6",
    "coif7",
    "coif8",
    "coif9",
    "coif10",
    "coif11",
    "coif12",
    "coif13",
    "coif14",
    "coif15",
    "coif16",
    "coif17",
]

#: For each order, the number of coefficients of a filter: of Daubechies wavelets, symlets and coiflets.
_LENGTHS = {"db": 2, "sym": 2, "coif": 6}


def filter_length(wavelet: Wavelet) -> int:
    """Return the number of coefficients of a wavelet's filters."""
    family, order, _ = re.split(r"(\d+)", wavelet)
    return _LENGTHS[family] * int(order)
