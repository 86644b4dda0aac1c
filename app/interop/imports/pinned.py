"""The releases of libraries that a script pins, as the stack of a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from calculator.inputs.settings import declared
from calculator.inputs.stack import DEFAULT_STACK, StackVersions
from calculator.stack.releases import release
from calculator.trainers.trl_sft.releases import CHUNKED, FUSED

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys

_PACKAGES = {field.name.replace("_", "[-_]"): field.name for field in declared(StackVersions)}

#: The known release for each way in which SFTTrainer computes its loss and prepares 4-bit models, by its first release.
#: From 0.26 on nothing is prepared.
#: Source: trl/trainer/sft_trainer.py, __init__ and compute_loss, of TRL 0.14.0 to 0.29.1.
_ERAS = (
    (FUSED, DEFAULT_STACK.trl, ""),
    (CHUNKED, "1.9", ""),
    ((0, 26), "1.0", ""),
    ((0, 22), "0.24", ""),
    ((0, 14), "0.15", ", which also computes the accuracy, in the forward pass"),
)

#: A pinned requirement, of pip or of a script's own metadata.
_PIN = re.compile(rf"(?<![\w-])({'|'.join(_PACKAGES)})==(\d{{1,4}}(?:\.\d{{1,4}}){{1,2}})")


def pins(text: str) -> dict[str, str]:
    """Return the pinned release of each library of a stack. If there are several, the first one counts."""
    versions: dict[str, str] = {}
    for name, version in _PIN.findall(text):
        versions.setdefault(name.replace("-", "_"), version)
    return versions


def stack_of(
    keys: Keys, request: dict[str, Any], known: dict[str, str], *, patches_trl: bool = False
) -> dict[str, str]:
    """Return the pinned releases with which the request is still answered, and list the others.

    `known` are releases that the request has in any case. In place of a release of TRL that is not known, a known one
    whose SFTTrainer computes the loss most like it. `patches_trl`: whether the script replaces that.
    """
    stack = dict(known)
    refused = refusals({**request, "stack": stack})
    for name, version in keys.script.pins.items():
        wrong = refusals({**request, "stack": {**stack, name: version}}) - refused
        if not wrong:
            stack[name] = version
            continue
        instead = getattr(DEFAULT_STACK, name)
        like, differs = _closest_release(version) if name == "trl" and not patches_trl else (instead, "")
        if like != instead and not refusals({**request, "stack": {**stack, name: like}}) - refused:
            stack[name] = instead = like
        how = differs if instead == like else ""
        keys.miss(name.replace("_", "-"), version, f"{min(wrong)}: {instead} is used{how}")
    return stack


def _closest_release(version: str) -> tuple[str, str]:
    """Return the known release of TRL whose SFTTrainer computes the loss most like a given one, and the difference."""
    eras = ((versions, differs) for first, versions, differs in _ERAS if release(version)[:2] >= first)
    return next(eras, (DEFAULT_STACK.trl, ""))


def refusals(request: dict[str, Any]) -> set[str]:
    """Return why a request is refused."""
    try:
        parsed = parse_request(request, catalogued=False)
        check(parsed, model_of(parsed.model))
    except PlanError as error:
        return {problem.msg.split(":")[0] for problem in error.problems}
    return set()
