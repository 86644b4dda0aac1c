"""Send hostile requests to the application: `make hostile ARGS="--count 1000000 --seed 1 --checkpoint sent.json"`.

A run with --checkpoint continues where an earlier one with the same file ended. With --large, requests of every model,
method and sharding are sent instead, a few in a second; with --mixed, estimates and pages that mix traced cases; with
--parsers, mutated texts go to the parsers. Faults are printed with what caused them, and end in status 1.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from app.application import application
from app.http.problems import HTTPProblem
from app.service.endpoints import Endpoints
from app.service.garbage import collect_between_answers, collect_if_due
from calculator.common.errors import PlanError
from tests.hostile.generated import parsed_text, request, route_paths
from tests.hostile.large import large_request
from tests.hostile.mixed import mixed_request
from tests.hostile.parsers import PARSERS
from tests.hostile.sent import status_of
from tests.hostile.tally import load, save

#: The status of too many traces at once: documented, and no fault.
BUSY = 503

#: How many requests are drawn from one seed, pass between two lines of progress, and are lost by an interruption.
CHUNK = 5_000
CHUNKS = {large_request: 20, mixed_request: 500}

#: Of how many endpoints the slowest request is printed.
SLOWEST = 12


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="a file that keeps what was sent, to continue from")
    parser.add_argument("--parsers", action="store_true", help="send texts to parsers, not requests")
    parser.add_argument("--large", action="store_true", help="send large requests, not mutated ones")
    parser.add_argument("--mixed", action="store_true", help="send requests mixed from traced cases")
    args = parser.parse_args()
    if args.parsers:
        return int(parse_all(random.Random(args.seed), args.count) > 0)
    drawn = large_request if args.large else mixed_request if args.mixed else request
    collect_between_answers()
    return int(asyncio.run(send_all(load(args.checkpoint, args.seed), args.count, args.checkpoint, drawn)) > 0)


async def send_all(tally, count, checkpoint=None, drawn=request):
    """Send requests one after the other until there are `count`; print the statuses and the slowest requests."""
    app, endpoints = application(), Endpoints.from_paths(route_paths())
    while tally.sent < count:
        chunk = CHUNKS.get(drawn, CHUNK)
        await send_chunk(app, endpoints, tally, min(chunk, count - tally.sent), drawn)
        print(tally.line(), flush=True)
        if checkpoint is not None:
            save(checkpoint, tally)
    for kind, counts in (("sent", tally.endpoints), ("answered", tally.answered)):
        missing = sorted(set(route_paths()) - set(+counts))
        print(f"endpoints {kind}: {len(+counts)}; never: {', '.join(missing) or 'none'}")
    for endpoint, (seconds, shown) in sorted(tally.slowest.items(), key=lambda item: -item[1][0])[:SLOWEST]:
        print(f"slowest of {endpoint}: {seconds:.2f} s of CPU: {shown}")
    return tally.faults


async def send_chunk(app, endpoints, tally, count, drawn=request):
    """Send the next requests, which follow from the seed and from how many were sent before."""
    chance = random.Random(f"{tally.seed}/{tally.sent}")
    for _ in range(count):
        hostile = drawn(chance)
        before = time.process_time()
        try:
            status = await status_of(app, hostile)
        except Exception:  # noqa: BLE001  it is what is looked for
            status = 500
            traceback.print_exc()
        tally.add(status, endpoints.name(hostile.path), time.process_time() - before, str(hostile))
        collect_if_due(idle=True)
        if status >= 500 and status != BUSY:
            tally.faults += 1
            print(f"fault {status}: {hostile}", flush=True)


def parse_all(chance, count):
    """Parse texts; print how many each parser read and refused."""
    counts, faults = Counter(), 0
    for _ in range(count):
        name = chance.choice(list(PARSERS))
        text = parsed_text(chance, name)
        try:
            PARSERS[name](text)
            counts[name, "read"] += 1
        except (PlanError, HTTPProblem):
            counts[name, "refused"] += 1
        except Exception:  # noqa: BLE001  it is what is looked for
            faults += 1
            traceback.print_exc()
            print(f"fault of {name}: {json.dumps(text)}", flush=True)
    print(f"{count:,} texts, {faults:,} faults: {', '.join(f'{a} {b} {n:,}' for (a, b), n in sorted(counts.items()))}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
