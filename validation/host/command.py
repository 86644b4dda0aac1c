"""Measure the host memory of loading, evaluation and merging on the CPU, and compare it with the prediction.

One process runs, then two (gloo).

python -m validation host
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from validation.host.measure import (
    Case,
    evaluation_cases,
    experts_config,
    loading_cases,
    measured,
    merging_case,
    model_config,
    write_model,
)
from validation.host.several import (
    measured_on_node,
    node_evaluation_cases,
    node_loading_cases,
    zero_3_loading_cases,
)

if TYPE_CHECKING:
    import argparse

#: The largest error that passes.
MOST = 0.03


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--hidden-size", type=int, default=1024, help="the width of the model that is loaded")
    parser.add_argument("--zero3", action="store_true", help="only loading for ZeRO-3, which needs DeepSpeed")
    parser.add_argument("--layers", type=int, default=16, help="its depth")


def run(args: argparse.Namespace) -> int:
    """Print each case; the status is 1 if an error is above 3 %, or an interval does not contain what is measured."""
    with TemporaryDirectory() as folder:
        large, tiny, wide, fused = (Path(folder, name) for name in ("large", "tiny", "wide", "fused"))
        config, logits_config = model_config(args.hidden_size, args.layers), model_config(64, 1)
        expert_config = experts_config(args.hidden_size, args.layers // 4)
        models = {large: config, tiny: model_config(16, 1), wide: logits_config, fused: expert_config}
        for where, model in models.items():
            write_model(model, where)
        if args.zero3:
            cases = zero_3_loading_cases(config, large)
            return int(max(_error(case.name, case.predicted, measured_on_node(case, tiny)) for case in cases) > MOST)
        loads = (*loading_cases(config, large), *loading_cases(expert_config, fused))
        one = (*loads, *evaluation_cases(4, 256, 32_000, 8), merging_case(config, large))
        several = (*node_loading_cases(config, large), *node_evaluation_cases(logits_config, wide, 64, 8))
        errors = [_error(case.name, case.predicted, measured(case, tiny)) for case in one]
        errors += [_outside_interval(case, measured(case, tiny, keeps=True)) for case in one if case.kept]
        errors += [_error(case.name, case.predicted, measured_on_node(case, tiny)) for case in several]
    return int(max(errors) > MOST)


def _outside_interval(case: Case, measured: int) -> float:
    """Return how far a measurement with malloc's defaults is outside of the predicted interval."""
    low, high = case.predicted, case.predicted + case.kept
    place = f"{(measured - low) / case.kept:.0%} of what malloc may keep"
    sys.stdout.write(f"{case.name}, malloc's defaults: {low:,} to {high:,}, measured {measured:,}: {place}\n")
    return max(low - measured, measured - high, 0) / measured


def _error(name: str, predicted: int, measured: int) -> float:
    error = predicted / measured - 1
    sys.stdout.write(f"{name}: predicted {predicted:,}, measured {measured:,}, error {error:+.2%}\n")
    return abs(error)
