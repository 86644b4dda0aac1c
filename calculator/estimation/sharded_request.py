"""A request for a run on several GPUs, parsed from decoded JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calculator.estimation.request import Request, parse_request
from calculator.inputs.sharding import Sharding, parse_sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedRequest:
    """A request for one rank's step, and how the run is sharded over its GPUs."""

    request: Request
    sharding: Sharding = field(default_factory=Sharding)


def parse_sharded_request(body: Any) -> ShardedRequest:
    """Parse a request that may have the fields of sharding.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(body, dict):
        return ShardedRequest(request=parse_request(body))
    request = parse_request(body)
    return ShardedRequest(request=request, sharding=parse_sharding(body, request.device.sharding, request.device.count))
