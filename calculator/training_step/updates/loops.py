"""The loops of the optimizers that update one parameter after the other, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.training_step.updates import adafactor, grokadamw, lomo, lorafa, low_rank, muon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.common.names import OptimizerName
    from calculator.training_step.updates.loop import Loop

LOOPS: Mapping[OptimizerName, Loop] = {
    "adafactor": adafactor.step,
    "muon": muon.step,
    "galore_adamw": low_rank.galore,
    "galore_adamw_layerwise": low_rank.galore,
    "galore_adafactor": adafactor.step,
    "apollo_adamw": low_rank.apollo,
    "apollo_adamw_layerwise": low_rank.apollo,
    "lomo": lomo.lomo,
    "adalomo": lomo.adalomo,
    "grokadamw": grokadamw.step,
    "lorafa": lorafa.step,
}
