"""PEFT's method comparison, replayed: batches sorted in buckets, outputs kept alive, a cache that is emptied.

Source: huggingface/peft, method_comparison/MetaMathQA/{run,utils,data}.py. A bucket is 80 rows, sorted from long to
short and split into 20 batches of 4. The script empties the cache after every tenth step. So the longest batch, the
first of its bucket, runs with a cache that was just emptied, while the outputs of the shortest batch are still alive.
The no-grad passes, before and between the steps, are in `evaluations`. The script subtracts what was reserved
before the model was loaded: one small segment.

A request states the lengths and when the cache is emptied. The order within buckets and the kept outputs are the
script's own. The lengths are not published, except for their mean. They are assumed to follow a log-normal distribution
with that mean whose longest row is `LONGEST`. That is the only number set here, and it is the same for every row.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import exp, log, sqrt
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING

from calculator.allocator.history import Padded
from calculator.allocator.history_run import HistoryRun
from calculator.allocator.segments import SMALL_SEGMENT
from calculator.estimation.estimate import resident_state
from calculator.estimation.history_replay import Histories
from calculator.estimation.sample_lengths import SEEDS, sample_lengths, with_longest_batch
from calculator.methods.full.method import Full
from validation.published.evaluations import LoadedAndEvaluated, reserved_by_questions
from validation.published.outputs import with_outputs

if TYPE_CHECKING:
    from calculator.allocator.history import Step
    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.batch_trace import Program
    from validation.published.measurement import Protocol

#: The longest padded sequence of the 20,000 rows; it is not published.
LONGEST = 696

#: The lengths' unit in the request.
UNIT = 8

#: Rows of the run, rows per bucket, steps between two calls of `empty_cache` (BUCKET_FACTOR and
#: ACCELERATOR_EMPTY_CACHE_SCHEDULE in run.py), and tokens of all rows, each with an end-of-sequence token.
ROWS = 20_000
BUCKET = 80
STEPS_BETWEEN = 10
TOKENS = 4_198_051

#: Evaluations that follow the first ten steps of a bucket, which begin with its longest batch: every second one, as the
#: script evaluates after each 250th of 5,000 steps.
EVALUATIONS = 10

#: Whole buckets before the one that begins with the longest batch. The cache is emptied in between.
BUCKETS_BEFORE = 2


@cache
def histogram() -> tuple[tuple[int, int], ...]:
    """Return the assumed lengths of the run's rows, in multiples of `UNIT`."""
    mean = TOKENS / ROWS
    highest = NormalDist().inv_cdf(1 - 0.5 / ROWS)
    # longest / mean = exp(highest · sigma - sigma² / 2)
    sigma = highest - sqrt(highest**2 - 2 * log(LONGEST / mean))
    location = log(mean) - sigma**2 / 2
    counts: dict[int, int] = {}
    for row in range(ROWS):
        length = UNIT * round(exp(location + sigma * NormalDist().inv_cdf((row + 0.5) / ROWS)) / UNIT)
        counts[length] = counts.get(length, 0) + 1
    return tuple(counts.items())


def bucketed(request: Request, seed: int) -> tuple[Step, ...]:
    """Return the steps of some buckets of drawn rows. The last bucket begins with the longest row."""
    return _bucketed(request, seed, BUCKETS_BEFORE + 1, longest=True)


def _bucketed(request: Request, seed: int, count: int, *, longest: bool) -> tuple[Step, ...]:
    lengths = sample_lengths(request.training)
    assert lengths is not None
    random, size = Random(seed), request.training.micro_batch_size
    values, counts = zip(*lengths.pairs, strict=True)
    buckets = [random.choices(values, counts, k=BUCKET) for _ in range(count)]
    if longest:
        buckets[-1][0] = lengths.longest
    rows = [row for bucket in buckets for row in sorted(bucket, reverse=True)]
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    return tuple((Padded(batch[0], padding=batch[0] > batch[-1]),) for batch in batches)


class RunWithOutputs(HistoryRun):
    """A run whose outputs stay alive until the next step's are assigned."""

    def __init__(
        self, request: Request, model: Model, workspaces: tuple[int, int], protocol: Protocol | None = None
    ) -> None:
        resident = resident_state(with_longest_batch(request))
        super().__init__(resident, workspaces)
        if protocol in ("buckets_after_loss", "buckets_after_loss_of_base"):
            self.loading = LoadedAndEvaluated(
                resident, _evaluated(request, base=protocol == "buckets_after_loss_of_base")
            )
        self._model = model
        self._refers = "cache_without_copies" in resident.prepared.older
        self._kept: dict[int, tuple[Program, Program]] = {}

    def micro_batch(self, batch: Padded, *, later: bool, last: bool = True) -> tuple[Program, list[int]]:
        """Return the events of a micro-batch that keeps its outputs, and its rows' bytes."""
        program, sizes = super().micro_batch(batch, later=later, last=last)
        if id(program) not in self._kept:
            self._kept[id(program)] = program, with_outputs(program, self._model, refers=self._refers)
        return self._kept[id(program)][1], sizes


def _evaluated(request: Request, *, base: bool) -> PreparedModel:
    """Return the model of the passes before the first step, or its base with PEFT's adapters disabled."""
    training = replace(request.training, sequence_lengths=None, torch_empty_cache_steps=None)
    method = Full() if base else request.method
    return resident_state(replace(request, method=method, training=training)).prepared


def mean_allocated(request: Request, model: Model, workspaces: tuple[int, int]) -> int:
    """Return the script's mean of what is allocated after a step: gradients and outputs are alive.

    The script subtracts the small segment that was reserved before the model was loaded.
    """
    resident = resident_state(with_longest_batch(request))
    always = sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states, *resident.gradients))
    run = RunWithOutputs(request, model, workspaces)
    kept: list[int] = []
    for batch in (
        batch for seed in SEEDS for step in bucketed(request, seed)[: BUCKETS_BEFORE * BUCKET // 4] for batch in step
    ):
        program, sizes = run.micro_batch(batch, later=False)
        kept.append(sum(sizes[row] for row in program.left))
    return always + round(sum(kept) / len(kept)) + sum(workspaces) - SMALL_SEGMENT


def max_reserved(request: Request, model: Model, workspaces: tuple[int, int], protocol: Protocol | None) -> int:
    """Return the script's result: the most bytes reserved in the worst of some histories."""
    histories = Histories.from_training(request.training)
    assert histories is not None
    run = RunWithOutputs(request, model, workspaces, protocol)
    peaks = [
        run.replay(bucketed(request, seed), empty_cache=histories.empty_cache).peak_reserved_bytes for seed in SEEDS
    ]
    if request.method.name == "prefix" and request.training.torch_empty_cache_steps == STEPS_BETWEEN:
        peaks += [
            reserved_by_questions(run, _bucketed(request, seed, EVALUATIONS, longest=False), STEPS_BETWEEN)
            for seed in SEEDS
        ]
    return max(peaks) - SMALL_SEGMENT
