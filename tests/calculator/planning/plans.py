"""Plans of one model and device that several tests read. Each is made once: it takes up to a hundred estimates."""

import json
from functools import cache

from calculator.planning.plan import plan
from calculator.planning.request import parse_plan


def planned(body):
    """The plan of a request with one model and one device, by the rule unless the request states otherwise."""
    return _planned(json.dumps({"reserved": "rule", **body}))


@cache
def _planned(text):
    (part,) = plan(parse_plan(json.loads(text))).plans
    return part
