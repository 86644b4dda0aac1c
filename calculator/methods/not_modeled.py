"""The methods of PEFT that are refused, each with the reason."""

#: The reasons by PEFT's `peft_type`. Source: peft 0.21, tuners/*/layer.py and model.py.
NOT_MODELED: dict[str, str] = {
    "CARTRIDGE": "it trains a cache that a script makes of a text first",
    "CPT": "its prompt and the weights of its loss are those of tokens that a script gives",
    "FROD": "each pass sorts and intersects the entries of a sparse matrix, and in float32 multiplies it with cuSPARSE:"
    " what these allocate on a GPU is not modeled",
    "MULTITASK_PROMPT_TUNING": "its prompts depend on each sample's task",
    "POLY": "its mixtures of adapters depend on each sample's task",
    "SHADOW": "a second small model runs with each layer",
    "SUPERTUNING": "what its sparse updates allocate on a GPU is not modeled",
}
