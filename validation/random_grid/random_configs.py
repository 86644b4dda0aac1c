"""Seeded random valid configs for every family, drawn from the fields that it declares."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import REQUIRED, Field
from calculator.families.fields import DIVISIBLE
from validation.random_grid.config_quirks import QUIRKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Entry
    from calculator.families.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The ranges from which a model's sizes are drawn."""

    layers: Sequence[int]
    kv: Sequence[int]

    #: Query heads for each key/value head.
    groups: Sequence[int]

    #: The size of a head with rotary embeddings, and of one without.
    rotary: Sequence[int]
    head: Sequence[int]

    #: The hidden size for each head, if the head size is independent of it.
    share: Sequence[int]

    vocab: Sequence[int]
    experts: Sequence[int]

    #: The size of a head that is projected from a latent.
    latent_head: Sequence[int]

    window: Sequence[int]

    #: The width of an MLP, an expert, a latent.
    width: Sequence[int]

    positions: Sequence[int]

    #: The share of optional fields that are left to their defaults.
    omitted: float = 0.3

    #: The values of dropouts. If empty, dropouts are left out.
    dropouts: tuple[float, ...] = ()


#: Models of a few kilobytes, to test shapes.
TINY = Sizes(
    layers=range(1, 5),
    kv=range(1, 4),
    groups=range(1, 4),
    rotary=range(16, 33, 16),
    head=range(3, 10),
    share=range(2, 10),
    vocab=range(4, 100),
    experts=range(4, 9, 2),
    latent_head=range(1, 41),
    window=range(1, 10),
    width=range(1, 41),
    positions=range(5, 100),
)

#: Models of few layers whose sizes are real or unusual, to test the memory of a step.
MIDDLING = Sizes(
    layers=(2, 3, 3, 4, 5, 6),
    kv=range(1, 9),
    groups=(1, 1, 2, 3, 4, 7),
    rotary=(32, 64, 64, 72, 80, 96, 104, 128, 128, 256),
    head=(32, 50, 64, 64, 80, 96, 128),
    share=range(24, 161),
    vocab=range(1_000, 160_000),
    experts=range(4, 17, 2),
    latent_head=(32, 64, 96, 128, 128, 192),
    window=(16, 128, 500, 1024, 4096),
    width=range(64, 8_193),
    positions=(1024, 2048, 4096, 8192, 32_768),
    omitted=0.6,
    dropouts=(0.0, 0.1),
)


#: Fields that no file needs: another value than the one that follows from the other fields is refused.
NEVER = ("given_head_dim",)


class Draw:
    """A random consistent shape, and the random generator for further choices."""

    def __init__(self, entries: tuple[Entry, ...], seed: str, sizes: Sizes) -> None:
        rng = self.rng = random.Random(seed)
        self.sizes = sizes
        fields = (entry for entry in entries if isinstance(entry, Field))
        self.fields = {field.name: field for field in fields if field.name not in NEVER}
        rotary = "rope_parameters" in self.fields
        self.layers = rng.choice(sizes.layers)
        self.kv = rng.choice(sizes.kv)
        self.heads = self.kv * rng.choice(sizes.groups)
        self.head = rng.choice(sizes.rotary if rotary else sizes.head)
        self.free = "head_dim" in self.fields and rng.random() < 0.5
        odd = 0 if DIVISIBLE in entries else rng.randint(0, 1)
        self.hidden = self.heads * rng.choice(sizes.share) + odd if self.free else self.heads * self.head
        self.vocab = rng.choice(sizes.vocab)
        self.experts = rng.choice(sizes.experts)
        self.window = rng.choice([None, rng.choice(sizes.window), rng.choice(sizes.window)])
        self.slides = self.window is not None and rng.random() < 0.5

    @property
    def windowed(self) -> bool:
        """Whether a sliding window is in use."""
        return bool(self.window) and (self.slides or "use_sliding_window" not in self.fields)

    def types(self) -> list[str]:
        """Return an attention type for each layer, sliding only if there is a window."""
        kinds = ["full_attention", "sliding_attention"] if self.windowed else ["full_attention"]
        return [self.rng.choice(kinds) for _ in range(self.layers)]

    def omits(self, field: Field) -> bool:
        """Return whether the field is left to its default."""
        fits = {
            "head_dim": not self.free and field.null is not None,
            "layer_types": self.windowed or "use_sliding_window" in self.fields,
        }
        optional = field.default is not REQUIRED and field.name not in ALWAYS and fits.get(field.name, True)
        return optional and self.rng.random() < self.sizes.omitted


OMIT = object()

ROTATIONS = [
    None,
    {"rope_type": "default", "rope_theta": 5e5},
    {"type": "linear", "factor": 2},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
]

#: How each field is drawn, by its canonical name. OMIT leaves it to the class's default.
DRAWN: dict[str, Callable[[Draw], Any]] = {
    "hidden_size": lambda d: d.hidden,
    "vocab_size": lambda d: d.vocab,
    "num_hidden_layers": lambda d: d.layers,
    "num_decoder_layers": lambda d: d.rng.randint(1, 3),
    "decoder_layers": lambda d: d.rng.randint(1, 3),
    "num_attention_heads": lambda d: d.heads,
    "decoder_attention_heads": lambda d: d.rng.choice([d.heads, d.kv, 1]),
    "num_key_value_heads": lambda d: d.kv,
    "head_dim": lambda d: d.head,
    "pad_token_id": lambda d: d.rng.choice([0, 3]),
    "max_position_embeddings": lambda d: d.rng.choice(d.sizes.positions),
    "num_experts": lambda d: d.experts,
    "num_experts_per_tok": lambda d: d.rng.randint(1, 2),
    "n_group": lambda d: d.experts // 2,
    "topk_group": lambda d: d.rng.randint(1, d.experts // 2),
    "mlp_layer_types": lambda d: [d.rng.choice(["dense", "sparse"]) for _ in range(d.layers)],
    "first_k_dense_replace": lambda d: d.rng.randint(0, 3),
    "qk_rope_head_dim": lambda d: d.head,
    "qk_nope_head_dim": lambda d: d.rng.choice(d.sizes.latent_head),
    "v_head_dim": lambda d: d.rng.choice(d.sizes.latent_head),
    "q_lora_rank": lambda d: d.rng.choice([None, 7]),
    "sliding_window": lambda d: d.window,
    "use_sliding_window": lambda d: d.slides,
    "use_bidirectional_attention": lambda d: d.windowed and d.rng.random() < 0.5,
    "local_attention": lambda d: 2 * (d.window or 3),
    "layer_types": lambda d: d.types(),
    "full_attn_idxs": lambda d: d.rng.sample(range(d.layers), d.rng.randint(0, d.layers)),
    "no_rope_layers": lambda d: [d.rng.randint(0, 1) for _ in range(d.layers)],
    "mlp_only_layers": lambda d: d.rng.sample(range(4), d.rng.randint(0, 2)),
    "decoder_sparse_step": lambda d: d.rng.randint(1, 3),
    "max_window_layers": lambda d: d.rng.randint(0, 3),
    "attention_types": lambda d: [[[d.rng.choice(["global", "local"])], 1] for _ in range(d.layers)],
    "original_max_position_embeddings": lambda d: d.rng.randint(2, 40),
    "rotary_dim": lambda d: 2 * d.rng.randint(1, d.head // 2),
    "word_embed_proj_dim": lambda d: d.rng.choice([d.hidden, None, 5]),
    "embedding_size": lambda d: d.rng.choice([d.hidden, 5]),
    "type_vocab_size": lambda d: d.rng.randint(1, 3),
    "num_ln_in_parallel_attn": lambda d: d.rng.choice([None, 1, 2]),
    "position_buckets": lambda d: d.rng.choice([-1, 6]),
    "max_relative_positions": lambda d: d.rng.choice([-1, 11]),
    "pos_att_type": lambda d: d.rng.choice([None, "p2c|c2p", ["c2p"], []]),
    "norm_rel_ebd": lambda d: d.rng.choice(["none", "layer_norm"]),
    "conv_kernel_size": lambda d: d.rng.choice([0, 3]),
    "conv_groups": lambda d: d.rng.choice([1, d.heads]),
    "feed_forward_proj": lambda d: d.rng.choice(["relu", "gated-gelu", "gated-silu"]),
    "attn_config": lambda d: d.rng.choice([None, {"attn_pdrop": 0, "alibi": True}]),
    "rope_parameters": lambda d: deepcopy(d.rng.choice(ROTATIONS)),
    "partial_rotary_factor": lambda d: d.rng.choice([0.25, 0.5, 1.0]),
    "add_cross_attention": lambda _d: False,
    "mm_tokens_per_image": lambda _d: 4,
}

#: Sizes that scale with the model. Others are small numbers, whatever its size.
WIDTHS = {
    *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "decoder_ffn_dim"),
    *("kv_lora_rank", "window_size"),
}

#: Fields whose default fits only the class's default sizes.
ALWAYS = {
    *("num_key_value_heads", "pad_token_id", "num_experts_per_tok", "n_group", "topk_group", "attention_types"),
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("qk_rope_head_dim", "rotary_dim", "mm_tokens_per_image", "sliding_window", "use_sliding_window"),
}


def random_config(family: Family, seed: int | str, sizes: Sizes = TINY) -> dict[str, Any]:
    """Return the content of a valid `config.json`."""
    entries = family.text or family.entries
    draw = Draw(entries, f"{family.model_type} {seed}", sizes)
    drawn = {draw.rng.choice([field.own_name, *field.aliases]): _value(field, draw) for field in draw.fields.values()}
    given = {name: value for name, value in drawn.items() if value is not OMIT}
    adapt = QUIRKS.get(family.model_type, lambda config, _draw: config)
    return {"model_type": family.model_type, **adapt(given, draw)}


def _value(field: Field, draw: Draw) -> Any:
    if draw.omits(field):
        return OMIT
    if field.name in DRAWN:
        return DRAWN[field.name](draw)
    if field.choices:
        return draw.rng.choice(field.choices)
    if field.type == "flag":
        return draw.rng.random() < 0.5
    if field.type == "size":
        return draw.rng.choice(draw.sizes.width if field.name in WIDTHS else TINY.width)
    return draw.rng.choice(draw.sizes.dropouts) if draw.sizes.dropouts and _drops(field) else OMIT


def _drops(field: Field) -> bool:
    return field.type == "number" and (field.minimum, field.maximum) == (0, 1) and "rotary" not in field.name
