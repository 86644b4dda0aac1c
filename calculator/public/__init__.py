"""The Python interface: functions that answer typed requests, and the types of requests and answers."""

from calculator.common.errors import PlanError
from calculator.comparison.methods import ComparisonRow
from calculator.estimation.answer import Estimate
from calculator.inputs.device import Device
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training
from calculator.limit_search.limit import Limit
from calculator.planning.needs import Needs
from calculator.planning.plan import Plan
from calculator.public.functions import compare, estimate, limits, plan

__all__ = [
    "ComparisonRow",
    "Device",
    "Estimate",
    "Limit",
    "Needs",
    "Plan",
    "PlanError",
    "StackVersions",
    "Training",
    "compare",
    "estimate",
    "limits",
    "plan",
]
