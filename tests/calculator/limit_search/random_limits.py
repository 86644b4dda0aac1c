"""Random limits over real models, compared with a scan of larger values.

`python -m tests.calculator.limit_search.random_limits RESERVED SEED COUNT [SCANNED]` checks COUNT limits by the rule or
by replay, and for each that memory bounds SCANNED values up to where the live tensors no longer fit.
"""

import random
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from statistics import median
from time import process_time

from calculator.common.errors import PlanError
from calculator.devices import gpus
from calculator.estimation.estimate import model_of
from calculator.limit_search.bounds import bound, solvable
from calculator.limit_search.limits import limit, parse_limit
from calculator.limit_search.replays import search_of
from tests.calculator.random_plans import random_body


@cache
def requests(seed, count, reserved="rule"):
    """Limits' requests that are answered, drawn from a seed; one in four of those that the rule has no value for."""
    chance = random.Random(seed)
    found = []
    while len(found) < count:
        body = random_body(chance)
        if chance.random() < 0.3:
            body["method"] = {"name": chance.choice(["adapter", "prefix", "prompt"])}
        body["device"] = {"gpu": chance.choice(gpus()).id}
        body |= {"solve_for": "sequence_length", "reserved": "rule"}
        try:
            body["solve_for"] = chance.choice(list(solvable(parse_limit(body).request.method)))
            answer = limit(parse_limit(body))
        except PlanError:
            continue
        if answer.at is not None or chance.random() < 0.25:
            found.append({**body, "reserved": reserved})
    return found


def faults(answer):
    """The errors of a limit, by the estimates at it and one step above."""
    if answer.at is not None and not answer.at.fits:
        yield "the value does not fit"
    if answer.bound.by == "memory" and answer.above.fits:
        yield "one more fits too"
    if answer.at is not None and answer.above is not None and answer.above.value != answer.at.value + 1:
        yield "the value above is not the next one"
    if answer.at is None and answer.bound.by == "memory" and answer.above is None:
        yield "nothing fits, and the answer does not state it"


def larger(body, answer, scanned):
    """Larger values that fit nevertheless, among those scanned up to where the live tensors no longer fit."""
    parsed = parse_limit(body)
    request, name = parsed.request, parsed.solve_for
    search, most = search_of(replace(request, length_given=True), name), bound(request, model_of(request.model), name)
    probes = search.ruled
    start = answer.above.value
    step = 1
    while start + step < most.limit and probes.probe(start + step).least_excess <= 0:
        step *= 2
    values = {start + 1 + step * k // scanned for k in range(scanned)}
    return sorted(value for value in values if value <= most.limit and search.fits(value))


def report(reserved, seed, count, scanned):
    """The table's lines."""
    bounds, times, wrong, missed = Counter(), [], 0, []
    for body in requests(seed, count, reserved):
        start = process_time()
        answer = limit(parse_limit(body))
        times.append(process_time() - start)
        bounds["nothing fits" if answer.at is None else answer.bound.by] += 1
        wrong += bool(list(faults(answer)))
        if scanned and answer.bound.by == "memory" and answer.above.least_excess <= 0:
            missed += [(body, answer.value, more) for more in [larger(body, answer, scanned)] if more]
    yield f"{count} limits: {dict(bounds)}; wrong: {wrong}"
    yield f"CPU time: median {median(times) * 1e3:.0f} ms, most {max(times) * 1e3:.0f} ms"
    yield f"a larger value fits nevertheless: {len(missed)}"
    yield from map(str, missed)


if __name__ == "__main__":
    seed, count, *scanned = [int(argument) for argument in sys.argv[2:]]
    sys.stdout.write("\n".join(report(sys.argv[1], seed, count, scanned[0] if scanned else 0)) + "\n")
