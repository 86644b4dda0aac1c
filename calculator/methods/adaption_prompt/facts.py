"""The facts about adaption prompts."""

from calculator.methods.facts import in_plain_steps

FACTS = in_plain_steps(
    label="Adaption Prompt",
    summary="Adaption Prompt (LLaMA-Adapter): the topmost layers attend to trained prompts too, through a gate.",
    trainable="adapter_layers · (adapter_len · hidden_size + 1)",
    inference_overhead="in each layer with a prompt, four more projections and attention over the prompt",
    mergeable=False,
    best_for="following instructions with few parameters",
    source="Zhang et al. 2023, arXiv 2303.16199; peft, tuners/adaption_prompt/layer.py, AdaptedAttention",
    peft_type="ADAPTION_PROMPT",
    config_class="AdaptionPromptConfig",
    refuses_unmerged="attention over the prompts is not counted",
)
