"""A replay of the steps of PEFT's method comparison, which sorts batches by length and empties the cache regularly.

Source: huggingface/peft, method_comparison/MetaMathQA/{run,utils,data}.py. A bucket is 80 rows, sorted from long to
short and split into 20 batches of 4. The script empties the cache after every tenth step. So the longest batch, the
first of its bucket, runs with a cache that was just emptied, while the outputs of the shortest batch are still alive.
The script subtracts what was reserved before the model was loaded: one small segment.

The lengths are not published, except for their mean. They are assumed to follow a log-normal distribution with that
mean whose longest row is `LONGEST`. That is the only number set here, and it is the same for every row.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.replay import Batch, Replay
from calculator.allocator.segments import SMALL_SEGMENT
from calculator.estimate.estimate import resident_state
from calculator.training_step.unrolled import events
from validation.published.outputs import keep_outputs

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.estimate.request import Request

#: The longest padded sequence of the 20,000 rows; it is not published.
LONGEST = 696

#: Rows of the run, rows per bucket, batches per bucket, steps between two calls of `empty_cache` (BUCKET_FACTOR and
#: ACCELERATOR_EMPTY_CACHE_SCHEDULE in run.py), and tokens of all rows, each with an end-of-sequence token.
ROWS = 20_000
BUCKET = 80
BATCHES = 20
STEPS_BETWEEN = 10
TOKENS = 4_198_051


def lengths() -> list[int]:
    """The padded length of each batch of a median bucket, from first to last."""
    mean = TOKENS / ROWS
    highest = NormalDist().inv_cdf(1 - 0.5 / ROWS)
    # longest / mean = exp(highest · sigma - sigma² / 2)
    sigma = highest - sqrt(highest**2 - 2 * log(LONGEST / mean))
    location = log(mean) - sigma**2 / 2
    first_of_batch = (BUCKET // BATCHES * batch + 0.5 for batch in range(BATCHES))
    return [round(exp(location + sigma * NormalDist().inv_cdf(1 - row / BUCKET))) for row in first_of_batch]


def max_reserved(request: Request, model: Model, workspaces: tuple[int, int]) -> int:
    """The script's result: the most bytes reserved when the longest batch runs after a whole bucket."""
    resident = resident_state(request)
    run = Replay(CachingAllocator(), resident, workspaces)
    run.load()
    for step, length in enumerate([*lengths(), request.training.sequence_length]):
        if step % STEPS_BETWEEN == 0:
            run.allocator.empty_cache()
        training = replace(request.training, sequence_length=length)
        run.first = Batch(
            run.allocator, keep_outputs(events(resident.prepared.for_run(training, request.device)), model)
        )
        run.step()
    return run.allocator.max_reserved - SMALL_SEGMENT
