"""The steps of PEFT's method comparison, replayed: batches sorted by length in buckets, the cache emptied now and then.

Source: huggingface/peft, method_comparison/MetaMathQA/{run,utils,data}.py. A bucket is 80 rows, sorted from long to
short and cut into 20 batches of 4; after every tenth step the cache is emptied, so that the longest batch, the first
of its bucket, meets a cache that was emptied just before, beside the outputs of the shortest. The script subtracts
what was reserved before the model: one small segment.

Lengths themselves are not published, but for the mean. They are taken from a log-normal law with that mean whose
longest of all rows is `LONGEST`, the one number that is set here, for every row the same.
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
from validation.published.outputs import held

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.estimate.request import Request

#: The longest padded sequence of the 20,000 rows. No publication tells it.
LONGEST = 696

#: Rows that the run reads, rows a bucket, batches a bucket, steps between two emptyings (BUCKET_FACTOR and
#: ACCELERATOR_EMPTY_CACHE_SCHEDULE in run.py), and tokens of all rows, an end-of-sequence token each included.
ROWS = 20_000
BUCKET = 80
BATCHES = 20
STEPS_BETWEEN = 10
TOKENS = 4_198_051


def lengths() -> list[int]:
    """The padded length of each batch of a middling bucket, from its first to its last."""
    mean = TOKENS / ROWS
    highest = NormalDist().inv_cdf(1 - 0.5 / ROWS)
    # longest / mean = exp(highest · sigma - sigma² / 2)
    sigma = highest - sqrt(highest**2 - 2 * log(LONGEST / mean))
    location = log(mean) - sigma**2 / 2
    first_of_batch = (BUCKET // BATCHES * batch + 0.5 for batch in range(BATCHES))
    return [round(exp(location + sigma * NormalDist().inv_cdf(1 - row / BUCKET))) for row in first_of_batch]


def max_reserved(request: Request, model: Model, workspaces: tuple[int, int]) -> int:
    """What the script reports: the most that is reserved when the longest batch comes after a whole bucket, bytes."""
    resident = resident_state(request)
    run = Replay(CachingAllocator(), resident, workspaces)
    run.load()
    for step, length in enumerate([*lengths(), request.training.sequence_length]):
        if step % STEPS_BETWEEN == 0:
            run.allocator.empty_cache()
        training = replace(request.training, sequence_length=length)
        run.first = Batch(run.allocator, held(events(resident.prepared.for_run(training, request.device)), model))
        run.step()
    return run.allocator.max_reserved - SMALL_SEGMENT
