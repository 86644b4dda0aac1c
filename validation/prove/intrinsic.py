"""How few directions fine-tuning needs, and how low the rank of its update is, on a small real task."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, get_args

import torch

from validation.prove import intrinsic_drawings
from validation.prove.claim import Check, Claim, Figure, spread
from validation.prove.experiment import Experiment, Findings, Setting
from validation.prove.fine_tuning import QUICK, WIDTH, Change, Plan, Tuned, tuned
from validation.prove.spectrum import energy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: What "far smaller than the parameter count" is held to, and "hundreds".
FAR_SMALLER, HUNDREDS = 0.1, 999
#: The rank that ΔW's energy is told at, and how much of it "low rank" is held to.
LOW, MOST = 8, 0.9
#: What "as good as full fine-tuning" is held to: one point of accuracy.
POINT = 0.01
#: The lesson's smallest rank.
SMALLEST = 4

Runs = dict[Change, list[Tuned]]

CHANGES: tuple[Change, ...] = get_args(Change)

TASK = (
    f"A perceptron with two hidden layers of {WIDTH}, on scikit-learn's digits: pretrained on 0 to 4 and fine-tuned on"
    " 5 to 9 (new digits), or pretrained on all and fine-tuned on all turned by a right angle (turned digits)."
)


def run(setting: Setting) -> Findings:
    """Every training, and what the lesson says of them."""
    plan = QUICK if setting.quick else Plan()
    runs: Runs = {change: [tuned(change, seed, plan, setting) for seed in range(plan.seeds)] for change in CHANGES}
    return Findings(
        claims=(
            _far_smaller(runs),
            _specialises(runs),
            _as_good(runs, plan),
            _low_rank(runs),
            _regulariser(runs, plan),
        ),
        curves=intrinsic_drawings.curves(runs),
        tables=(intrinsic_drawings.dimensions(runs),),
    )


def _far_smaller(runs: Runs) -> Claim:
    parameters = runs[CHANGES[0]][0].parameters
    figures = _by_change(runs, "d90", "d90", lambda each: each.dimension("pretrained"))
    most = max(each.dimension("pretrained") for seeds in runs.values() for each in seeds)
    worst = Figure(key="d90_most", name="the largest d90 of any seed", value=most)
    share = Figure(key="share", name="that d90 over the number of parameters", value=most / parameters)
    return Claim(
        id="intrinsic-dimension",
        lesson="Fine-tuning's intrinsic dimension is far smaller than the parameter count: hundreds, not billions.",
        done=f"{TASK} Then trained in random subspaces: d90 is the fewest directions tried that reach 90 % of full"
        " fine-tuning's accuracy.",
        figures=(*figures, worst, share, Figure(key="parameters", name="parameters of the network", value=parameters)),
        checks=(
            Check(figure=worst, relation="at most", bounds=(HUNDREDS,)),
            Check(figure=share, relation="at most", bounds=(FAR_SMALLER,)),
        ),
    )


def _specialises(runs: Runs) -> Claim:
    ratios = _by_change(
        runs,
        "ratio",
        "d90 from pretrained weights over d90 from random ones",
        lambda each: each.dimension("pretrained") / each.dimension("random"),
    )
    return Claim(
        id="intrinsic-pretrained",
        lesson="Low rank works because a task only specialises what the model knows.",
        done="If so, pretrained weights need fewer directions than random ones (Aghajanyan et al. 2020): the same"
        " dimensions from both.",
        figures=ratios,
        checks=tuple(Check(figure=ratio, relation="at most", bounds=(1,)) for ratio in ratios),
        remark="Aghajanyan et al. found it of language models. This pretrained network must also unlearn: its answers"
        " for the old digits, or how they stood.",
    )


def _as_good(runs: Runs, plan: Plan) -> Claim:
    lost = {r: _by_change(runs, f"lost_r{r}", f"accuracy lost at r {r}", partial(Tuned.lost, r=r)) for r in plan.ranks}
    decisive = [figure for r in plan.ranks if r >= SMALLEST for figure in lost[r]]
    return Claim(
        id="low-rank-accuracy",
        lesson=f"Updates of rank {SMALLEST} and more do what full fine-tuning does.",
        done=f"{TASK} LoRA by PEFT on every layer, alpha = r, as many steps as full fine-tuning; within a point of it.",
        figures=(
            *_by_change(runs, "full", "accuracy in full", lambda each: each.full),
            *_by_change(runs, "before", "accuracy before fine-tuning", lambda each: each.before),
            *(figure for figures in lost.values() for figure in figures),
        ),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(POINT,)) for figure in decisive),
    )


def _low_rank(runs: Runs) -> Claim:
    shares = _by_change(
        runs, "energy", f"share of ΔW's energy in the first {LOW} of {WIDTH}", lambda each: _share(each.hidden)
    )
    random = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    return Claim(
        id="low-rank-update",
        lesson="The update that full fine-tuning makes to a weight is nearly of low rank.",
        done=f"The singular values of ΔW between the hidden layers, {WIDTH} × {WIDTH}, after full fine-tuning.",
        figures=(*shares, Figure(key="energy_random", name="the same of a random matrix", value=_share(random))),
        checks=tuple(Check(figure=figure, relation="at least", bounds=(MOST,)) for figure in shares),
    )


def _share(update: Tensor) -> float:
    return float(energy(update)[LOW - 1])


def _regulariser(runs: Runs, plan: Plan) -> Claim:
    r = min(plan.ranks, key=lambda rank: abs(rank - SMALLEST))
    wider = _by_change(runs, "gap", "how much wider LoRA's gap is", lambda each: each.lora_gap[r] - each.full_gap)
    return Claim(
        id="low-rank-regulariser",
        lesson="A low rank is an implicit regulariser.",
        done=f"The gap between the accuracy on trained and on test images: LoRA at r {r} beside full fine-tuning.",
        figures=(*wider, *_by_change(runs, "full_gap", "gap in full", lambda each: each.full_gap)),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(0,)) for figure in wider),
    )


def _by_change(runs: Runs, key: str, name: str, told: Callable[[Tuned], float]) -> tuple[Figure, ...]:
    """A figure of each change, over its seeds."""
    return tuple(
        spread(f"{key}_{_key(change)}", f"{name}, {change}", [told(each) for each in seeds])
        for change, seeds in runs.items()
    )


def _key(change: Change) -> str:
    return change.partition(" ")[0]


def steps(quick: bool) -> int:
    """How many steps the experiment takes: a training each."""
    plan = QUICK if quick else Plan()
    return len(CHANGES) * plan.seeds * plan.trainings


EXPERIMENT = Experiment(
    name="intrinsic",
    title="Intrinsic dimension and low rank",
    section="2. LoRA: why low rank works",
    steps=steps,
    run=run,
)
