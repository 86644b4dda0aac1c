"""Send hostile requests to the application: `make hostile ARGS="--count 1000000 --seed 1"`.

With --parsers, mutated texts go to the parsers instead. Faults are printed with what caused them, and end in status 1.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import traceback
from collections import Counter

from app.application import application
from app.http.problems import HTTPProblem
from calculator.common.errors import PlanError
from tests.hostile.generated import parsed_text, request
from tests.hostile.parsers import PARSERS
from tests.hostile.sent import status_of

#: The status of too many traces at once: documented, and no fault.
BUSY = 503

#: How many requests pass between two lines of progress.
EVERY = 5_000


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parsers", action="store_true", help="send texts to parsers, not requests")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    faults = parse_all(chance, args.count) if args.parsers else asyncio.run(send_all(chance, args.count))
    return int(faults > 0)


async def send_all(chance, count):
    """Send requests one after the other; print the statuses and the slowest request."""
    app, statuses, slowest, faults = application(), Counter(), (0.0, None), 0
    for number in range(1, count + 1):
        hostile = request(chance)
        before = time.process_time()
        try:
            status = await status_of(app, hostile)
        except Exception:  # noqa: BLE001  it is what is looked for
            status = 500
            traceback.print_exc()
        seconds = time.process_time() - before
        slowest = max(slowest, (seconds, hostile), key=lambda pair: pair[0])
        statuses[status] += 1
        if status >= 500 and status != BUSY:
            faults += 1
            print(f"fault {status}: {hostile}", flush=True)
        if number % EVERY == 0 or number == count:
            shown = ", ".join(f"{status}: {times:,}" for status, times in sorted(statuses.items()))
            print(f"{number:,} requests, {faults:,} faults ({shown}), {time.process_time():,.0f} s of CPU", flush=True)
    print(f"slowest: {slowest[0]:.2f} s of CPU: {str(slowest[1])[:2000]}")
    return faults


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
