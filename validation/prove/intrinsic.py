"""The intrinsic dimension of fine-tuning and the rank of its update, on a small real task."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, get_args

import torch

from validation.prove import intrinsic_drawings
from validation.prove.claim import Check, Claim, Figure, spread
from validation.prove.experiment import Experiment, Findings, Setting
from validation.prove.fine_tuning import QUICK, WIDTH, Change, Plan, TuningResult, fine_tuned
from validation.prove.spectrum import energy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: The bounds for "far smaller than the parameter count" and for "hundreds".
FAR_SMALLER, HUNDREDS = 0.1, 999
#: The rank at which ΔW's energy is measured, and the share of it that "low rank" requires.
LOW, MOST = 8, 0.9
#: The bound for "as good as full fine-tuning": one point of accuracy.
POINT = 0.01
#: The lesson's smallest rank.
SMALLEST = 4

Runs = dict[Change, list[TuningResult]]

CHANGES: tuple[Change, ...] = get_args(Change)

TASK = (
    f"A perceptron with two hidden layers of {WIDTH}, on scikit-learn's digits: pretrained on 0 to 4 and fine-tuned on"
    " 5 to 9 (new digits), or pretrained on all and fine-tuned on all rotated by 90 degrees (turned digits)."
)


def run(setting: Setting) -> Findings:
    """Run every training and test the lesson's claims."""
    plan = QUICK if setting.quick else Plan()
    runs: Runs = {change: [fine_tuned(change, seed, plan, setting) for seed in range(plan.seeds)] for change in CHANGES}
    return Findings(
        claims=(
            _far_smaller(runs),
            _specializes(runs),
            _as_good(runs, plan),
            _low_rank(runs),
            _regularizer(runs, plan),
        ),
        curves=intrinsic_drawings.curves(runs),
        tables=(intrinsic_drawings.dimensions(runs),),
    )


def _far_smaller(runs: Runs) -> Claim:
    parameters = runs[CHANGES[0]][0].parameters
    figures = _figures_by_change(runs, "d90", "d90", lambda run: run.dimension("pretrained"))
    most = max(seed.dimension("pretrained") for seeds in runs.values() for seed in seeds)
    worst = Figure(key="d90_most", name="the largest d90 of any seed", value=most)
    share = Figure(key="share", name="the largest d90 over the number of parameters", value=most / parameters)
    return Claim(
        id="intrinsic-dimension",
        lesson="Fine-tuning's intrinsic dimension is far smaller than the parameter count: hundreds, not billions.",
        done=f"{TASK} Then trained in random subspaces: d90 is the smallest dimension tried that reaches 90 % of full"
        " fine-tuning's accuracy.",
        figures=(*figures, worst, share, Figure(key="parameters", name="parameters of the network", value=parameters)),
        checks=(
            Check(figure=worst, relation="at most", bounds=(HUNDREDS,)),
            Check(figure=share, relation="at most", bounds=(FAR_SMALLER,)),
        ),
    )


def _specializes(runs: Runs) -> Claim:
    ratios = _figures_by_change(
        runs,
        "ratio",
        "d90 from pretrained weights over d90 from random weights",
        lambda run: run.dimension("pretrained") / run.dimension("random"),
    )
    return Claim(
        id="intrinsic-pretrained",
        lesson="Low rank works because a task only specializes what the model knows.",
        done="If so, pretrained weights need fewer directions than random ones (Aghajanyan et al. 2020); both are"
        " trained with the same dimensions.",
        figures=ratios,
        checks=tuple(Check(figure=ratio, relation="at most", bounds=(1,)) for ratio in ratios),
        remark="Aghajanyan et al. found this for language models. This small network must also unlearn the old digits,"
        " or their orientation.",
    )


def _as_good(runs: Runs, plan: Plan) -> Claim:
    lost = {
        r: _figures_by_change(runs, f"lost_r{r}", f"accuracy lost at r {r}", partial(TuningResult.lost, r=r))
        for r in plan.ranks
    }
    decisive = [figure for r in plan.ranks if r >= SMALLEST for figure in lost[r]]
    return Claim(
        id="low-rank-accuracy",
        lesson=f"Updates of rank {SMALLEST} and more are as good as full fine-tuning.",
        done=f"{TASK} PEFT's LoRA on every layer, with alpha = r and the steps of full fine-tuning, within a point of"
        " it.",
        figures=(
            *_figures_by_change(runs, "full", "accuracy of full fine-tuning", lambda run: run.full),
            *_figures_by_change(runs, "before", "accuracy before fine-tuning", lambda run: run.before),
            *(figure for figures in lost.values() for figure in figures),
        ),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(POINT,)) for figure in decisive),
    )


def _low_rank(runs: Runs) -> Claim:
    shares = _figures_by_change(
        runs, "energy", f"share of ΔW's energy in the first {LOW} of {WIDTH}", lambda run: _share(run.hidden)
    )
    random = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    return Claim(
        id="low-rank-update",
        lesson="Full fine-tuning's update of a weight has nearly low rank.",
        done=f"The singular values of ΔW between the hidden layers, {WIDTH} × {WIDTH}, after full fine-tuning.",
        figures=(*shares, Figure(key="energy_random", name="share of a random matrix's energy", value=_share(random))),
        checks=tuple(Check(figure=figure, relation="at least", bounds=(MOST,)) for figure in shares),
    )


def _share(update: Tensor) -> float:
    return float(energy(update)[LOW - 1])


def _regularizer(runs: Runs, plan: Plan) -> Claim:
    r = min(plan.ranks, key=lambda rank: abs(rank - SMALLEST))
    wider = _figures_by_change(
        runs, "gap", "LoRA's gap minus full fine-tuning's", lambda run: run.lora_gap[r] - run.full_gap
    )
    return Claim(
        id="low-rank-regulariser",
        lesson="A low rank is an implicit regularizer.",
        done=f"The gap between the accuracy on training and on test images, of LoRA with r {r} and of full"
        " fine-tuning.",
        figures=(*wider, *_figures_by_change(runs, "full_gap", "gap of full fine-tuning", lambda run: run.full_gap)),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(0,)) for figure in wider),
    )


def _figures_by_change(runs: Runs, key: str, name: str, measure: Callable[[TuningResult], float]) -> tuple[Figure, ...]:
    """Return one figure per change, over its seeds."""
    return tuple(
        spread(f"{key}_{_key(change)}", f"{name}, {change}", [measure(seed) for seed in seeds])
        for change, seeds in runs.items()
    )


def _key(change: Change) -> str:
    return change.partition(" ")[0]


def steps(quick: bool) -> int:
    """Return the number of steps: one per training."""
    plan = QUICK if quick else Plan()
    return len(CHANGES) * plan.seeds * plan.trainings


EXPERIMENT = Experiment(
    name="intrinsic",
    title="Intrinsic dimension and low rank",
    section="2. LoRA: why low rank works",
    steps=steps,
    run=run,
)
