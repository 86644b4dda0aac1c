"""The requests that were sent so far, and their file: a run that is interrupted continues from it."""

import json
from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(slots=True, kw_only=True)
class Tally:
    """Requests that were sent, by status and by endpoint, with faults and the slowest request of each endpoint."""

    seed: int
    sent: int = 0
    faults: int = 0
    seconds: float = 0.0
    statuses: Counter = field(default_factory=Counter)
    endpoints: Counter = field(default_factory=Counter)
    answered: Counter = field(default_factory=Counter)
    slowest: dict = field(default_factory=dict)

    def add(self, status, endpoint, seconds, shown):
        self.sent += 1
        self.seconds += seconds
        self.statuses[str(status)] += 1
        self.endpoints[endpoint] += 1
        self.answered[endpoint] += status < 400
        if seconds > self.slowest.get(endpoint, (0.0,))[0]:
            self.slowest[endpoint] = (seconds, shown[:1000])

    def line(self):
        """A line of progress."""
        shown = ", ".join(f"{status}: {times:,}" for status, times in sorted(self.statuses.items()))
        return f"{self.sent:,} requests, {self.faults:,} faults ({shown}), {self.seconds:,.0f} s of CPU"


def load(path, seed):
    """The tally of a file, or a new one where there is none.

    Raises:
        ValueError: if the file is of another seed.
    """
    if path is None or not path.exists():
        return Tally(seed=seed)
    saved = json.loads(path.read_text())
    if saved["seed"] != seed:
        raise ValueError(f"{path} is of seed {saved['seed']}, not of {seed}: name another file")
    counts = {name: Counter(saved[name]) for name in ("statuses", "endpoints", "answered")}
    return Tally(**{**saved, **counts})


def save(path, tally):
    """Write a tally in one piece."""
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps({field.name: getattr(tally, field.name) for field in fields(tally)}, indent=1))
    unfinished.replace(path)
