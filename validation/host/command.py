"""Measure the host memory of loading and of gathering logits on the CPU, and compare it with the prediction.

python -m validation host
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from validation.host.measure import evaluation_cases, loading_cases, measured, model_config, write_model

if TYPE_CHECKING:
    import argparse

#: The largest error that passes.
MOST = 0.03


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--hidden-size", type=int, default=1024, help="the width of the model that is loaded")
    parser.add_argument("--layers", type=int, default=16, help="its depth")


def run(args: argparse.Namespace) -> int:
    """Print each case; the status is 1 if an error is above 3 %."""
    worst = 0.0
    with TemporaryDirectory() as folder:
        large, tiny = Path(folder, "large"), Path(folder, "tiny")
        config = model_config(args.hidden_size, args.layers)
        write_model(config, large)
        write_model(model_config(16, 1), tiny)
        for case in (*loading_cases(config, large), *evaluation_cases(4, 256, 32_000, 8)):
            found = measured(case, tiny)
            error = case.predicted / found - 1
            worst = max(worst, abs(error))
            sys.stdout.write(f"{case.name}: predicted {case.predicted:,}, measured {found:,}, error {error:+.2%}\n")
    return int(worst > MOST)
