"""Optimizers that train a few layers at a time, and why they are not modeled.

Sources: badam 1.4, block_optim.py (BlockOptimizer.switch_trainable_params); axolotl, utils/callbacks/lisa.py.
"""

from __future__ import annotations

#: Why each optimizer is not modeled, and what to use instead.
BY_TURNS = {
    "badam": "BAdam trains one block at a time, in a copy in float32, and frees its states when the block changes: the"
    " memory of a step depends on the block, which is not modeled. lomo, or full with optimizer_in_bwd, trains all"
    " layers in little memory",
    "lisa": "LISA trains some layers at a time, drawn at random, and the optimizer keeps the states of each layer that"
    " it has trained: memory grows from step to step, which is not modeled. In the end the states are those of full"
    " fine-tuning; leave it out for that, or use lomo",
}
