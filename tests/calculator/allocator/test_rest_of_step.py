"""The rest of a step that repeats that of an earlier one, except in runs that are smaller than every request."""

from random import Random
from types import SimpleNamespace
from weakref import ref

from calculator.allocator.fast_replay import FastReplay
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.rest_of_step import RestOfStep
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request

SHIFT = 40
WORKSPACES = (8_519_680, 8_519_680)
LLAMA_3B = {
    "model": "meta-llama/Llama-3.2-3B",
    "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"},
}


def replay():
    run = FastReplay(resident_state(parse_request(LLAMA_3B)), WORKSPACES)
    run.load()
    return run


def test_steps_after_one_whose_rest_was_left_out_begin_as_if_it_had_been_played():
    run, whole = replay(), replay()
    whole.rests = [None] * 2
    for number in range(4):
        run.step()
        whole.step()
        assert run.reserved == whole.reserved
        assert run.skipped_rest[0] == (number == 2)
        assert number == 2 or run.pools[0].free_keys == whole.pools[0].free_keys
    assert run.left == whole.left


def test_a_replay_whose_last_rest_was_left_out_is_in_no_cycle():
    run = replay()
    for _ in range(3):
        run.step()
    assert run.skipped_rest[0]
    is_alive = ref(run)
    del run
    assert is_alive() is None


class Steps:
    """Two steps at random. Before the rest, small tensors are placed differently, and a segment may be added between.

    Rows: of the base, tensors that the rest frees, tensors that outlive the step, and those of the rest.
    """

    def __init__(self, seed):
        self.random = random = Random(seed)
        self.pool = FlatPool(SHIFT, small=True)
        self.sizes = [random.choice((1, 2, 3, 16, 30, 200, 900, 2048)) for _ in range(random.randint(10, 60))]
        self.base = range(len(self.sizes))
        self.before = self._rows(random.randint(1, 12), (1, 2, 5, 16, 200, 700))
        self.outliving = self._rows(random.randint(0, 2), (1, 2, 20))
        allocated = self._rows(random.randint(1, 20), random.choice(((64, 256), (128, 1024), (16, 300, 2000))))
        self.events, alive = [], [row for row in self.before if random.random() < 0.8]
        for row in allocated:
            self.events.append(row)
            alive += [row] if random.random() < 0.8 else []
            while alive and random.random() < 0.45:
                self.events.append(~alive.pop(random.randrange(len(alive))))
        freed = {~event for event in self.events if event < 0}
        self.kept = [row for row in (*self.before, *self.outliving, *allocated) if row not in freed]
        self.temporaries = [random.choice((128, 256, 1024)) for _ in range(random.randint(0, 20))]
        self.places = [0] * len(self.sizes), [0] * len(self.sizes)
        self._play([*self.base, *(~row for row in self.base if random.random() < 0.5)])
        item = SimpleNamespace(played=lambda skips: self.events if skips else [], sufficient_size=0)
        self.batch = SimpleNamespace(
            passes=[[[], [item]]], sizes=self.sizes, places=self.places, left=[[*self.outliving]]
        )
        self.rest = RestOfStep(self.batch, 0, 0)

    def _rows(self, count, sizes):
        self.sizes += [self.random.choice(sizes) for _ in range(count)]
        return range(len(self.sizes) - count, len(self.sizes))

    def _play(self, events):
        self.pool.play(events, self.sizes, self.places)

    def begin(self, *, turned):
        """Place the tensors before the rest: those that outlive the step first or last."""
        self._play([*self.outliving, *self.before] if turned else [*self.before, *self.outliving])

    def end(self):
        """Play the rest. Return the numbers of segments before it and after it, and after the optimizer's step."""
        counts = [len(self.pool.segments)]
        self._play(self.events)
        counts.append(len(self.pool.segments))
        self.rest.end(self.pool)
        self.pool.allocate_and_free([(self.temporaries, 1)])
        return *counts, len(self.pool.segments)


def test_a_rest_that_repeats_the_one_before_adds_no_segment():
    found = different = 0
    for seed in range(3000):
        steps = Steps(seed)
        steps.begin(turned=False)
        steps.rest.begin(steps.pool)
        steps.end()
        free = steps.rest._start.free
        steps._play([~row for row in steps.kept])
        steps.begin(turned=True)
        if steps.rest.repeats(steps.pool, steps.temporaries):
            found += 1
            different += not {*free} <= {*steps.pool.free_keys}
            assert len({*steps.end()}) == 1, seed
    assert found > 200
    assert different > 15
