"""What the lesson says of memory, held against traced steps."""

from __future__ import annotations

from calculator.devices import gpu
from calculator.estimate.textbook import cards_needed
from validation.prove.claim import GB, Check, Claim, Figure
from validation.prove.lesson_runs import TOLD, Run, stated

SMALL_CARD, LARGE_CARD = "rtx-4090", "a100-sxm4-80gb"

Runs = dict[str, Run]


def claims(chosen: Runs) -> tuple[Claim, ...]:
    """Every claim, in the lesson's order."""
    made = (computed, reduction, small_card, training, thirteen, cards, share)
    return tuple(claim(chosen) for claim in made)


def computed(chosen: Runs) -> Claim:
    """The calculator beside the trace."""
    pairs = [each.compared for each in chosen.values()]
    peaks = Figure(key="peaks", name="bytes in which peaks differ", value=sum(abs(e.peak - t.peak) for e, t in pairs))
    parts = sum(abs(exact.static[name] - value) for exact, traced in pairs for name, value in traced.static.items())
    rest = Figure(key="parts", name="bytes in which weights, constants, gradients and states differ", value=parts)
    return Claim(
        id="savings-computed",
        lesson="A run's memory can be computed before it is started.",
        done=f"The calculator's figures of {len(chosen)} of the lesson's runs, at {TOLD}, beside a training"
        " step of the real modules on the meta device.",
        figures=(peaks, rest),
        checks=tuple(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in (peaks, rest)),
    )


def reduction(chosen: Runs) -> Claim:
    """Full fine-tuning of 70B beside QLoRA."""
    low, _ = stated("reduction against full fine-tuning")
    peak = chosen["qlora"].found.peak
    pure = Figure(key="bfloat16", name="full in bfloat16 over QLoRA", value=chosen["full"].found.peak / peak)
    mixed = Figure(
        key="mixed", name="full in float32 under autocast over QLoRA", value=chosen["mixed"].found.peak / peak
    )
    return Claim(
        id="savings-reduction",
        lesson=f"QLoRA takes {low:g} times less memory than full fine-tuning of 70B.",
        done="The peaks of the traced steps.",
        figures=(pure, mixed),
        checks=tuple(Check(figure=figure, relation="at least", bounds=(low,)) for figure in (pure, mixed)),
        remark="The lesson's 12 bytes a parameter are neither way of training in full: bfloat16 weights have bfloat16"
        " states, and mixed precision has float32 weights and gradients.",
    )


def small_card(chosen: Runs) -> Claim:
    """70B on a card of 24 GB."""
    peak = _peak(chosen["qlora"], "peak")
    return Claim(
        id="savings-24gb",
        lesson="A single consumer card of 24 GB can fine-tune a 70B model with QLoRA.",
        done=f"The traced peak beside what a {gpu(SMALL_CARD).name} offers a process.",
        figures=(peak,),
        checks=(Check(figure=peak, relation="at most", bounds=(gpu(SMALL_CARD).usable_bytes,)),),
    )


def training(chosen: Runs) -> Claim:
    """What QLoRA on 70B takes, and of what."""
    low, high = (stated(f"training with {n} GB of activations")[0] * GB for n in (2, 3))
    plain = _peak(chosen["qlora"], "peak")
    return Claim(
        id="savings-training",
        lesson=f"QLoRA with r 64 on 70B trains in {low / GB:g} to {high / GB:g} GB.",
        done="The traced peak, with LoRA on q, k, v and o in float32 as PEFT has it.",
        figures=(plain, _peak(chosen["prepared"], "prepared")),
        checks=(Check(figure=plain, relation="between", bounds=(int(low), int(high))),),
        remark=_apart(chosen["qlora"]),
    )


def _apart(told: Run) -> str:
    """How much more of each component there is than the lesson says, in GB."""
    static = told.found.static
    beyond = {
        "the base with its constants": _beyond(
            static["base_weights"] + static["quantization_constants"], told, "base_weights"
        ),
        "LoRA's weights": _beyond(static["adapter_weights"], told, "adapter_weights"),
        "Adam's states": _beyond(static["optimizer_states"], told, "optimizer_states"),
    }
    return f"Beyond the lesson's are {', '.join(f'{name} ({value:+.2g} GB)' for name, value in beyond.items())}."


def _beyond(found: int, told: Run, component: str) -> float:
    return (found - (told.lesson(component) or 0)) / GB


def thirteen(chosen: Runs) -> Claim:
    """13B at a low and a high rank."""
    _, limit = stated("r 256 stays under")
    _, told = stated("in all, batch 1")
    small, large = _peak(chosen["r16"], "r16"), _peak(chosen["r256"], "r256")
    return Claim(
        id="savings-13b",
        lesson=f"13B with QLoRA takes {told:g} GB at r 16, and stays under {limit:g} GB at r 256.",
        done="The traced peaks.",
        figures=(small, large),
        checks=(
            Check(figure=small, relation="at most", bounds=(int(told * GB),)),
            Check(figure=large, relation="at most", bounds=(int(limit * GB),)),
        ),
        remark=_fits((small, large)),
    )


def _fits(figures: tuple[Figure, ...]) -> str:
    card = gpu(SMALL_CARD)
    fitting = sum(figure.value <= card.usable_bytes for figure in figures)
    return f"{fitting} of the {len(figures)} peaks are within what a {card.name} offers a process."


def cards(chosen: Runs) -> Claim:
    """How many cards the 70B runs need."""
    low, _ = stated("A100 80GB cards for that memory")
    card = gpu(LARGE_CARD)
    needed = [
        Figure(
            key=key,
            name=f"cards for {chosen[key].name}",
            value=cards_needed(chosen[key].found.peak, card.usable_bytes),
            unit="cards",
        )
        for key in ("full", "mixed")
    ]
    one = Figure(
        key="prepared",
        name=f"cards for {chosen['prepared'].name}",
        value=cards_needed(chosen["prepared"].found.peak, card.usable_bytes),
        unit="cards",
    )
    return Claim(
        id="savings-cards",
        lesson=f"Full fine-tuning of 70B needs {low:g} or more A100 80GB for its memory, and QLoRA one.",
        done=f"The traced peaks over what a {card.name} offers a process, as if memory could be split evenly.",
        figures=(*needed, one),
        checks=(
            *(Check(figure=figure, relation="at least", bounds=(low,)) for figure in needed),
            Check(figure=one, relation="equal to", bounds=(1,)),
        ),
    )


def share(chosen: Runs) -> Claim:
    """What LoRA on 7B trains."""
    low, _ = stated("on Q, K, V, O of 32 layers")
    parameters = chosen["lora"].found.parameters
    added = Figure(key="added", name="parameters that LoRA adds", value=parameters["added"])
    static = chosen["lora"].found.static
    trained = static["gradients"] + static["optimizer_states"]
    return Claim(
        id="savings-lora",
        lesson=f"LoRA of r 8 on q, k, v and o of 7B trains {int(low):,} parameters.",
        done="The real modules' parameters, and what their gradients and Adam's states take.",
        figures=(
            added,
            Figure(
                key="share", name="share of the base's", value=100 * parameters["added"] / parameters["base"], unit="%"
            ),
            Figure(key="trained", name="their gradients and states", value=trained, unit="bytes"),
            _peak(chosen["lora"], "peak"),
        ),
        checks=(Check(figure=added, relation="equal to", bounds=(int(low),)),),
    )


def _peak(told: Run, key: str) -> Figure:
    return Figure(key=key, name=f"peak of {told.name}", value=told.found.peak, unit="bytes")
