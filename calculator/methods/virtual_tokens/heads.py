"""The sizes that PEFT reads from a config.json for virtual tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.architecture.model import Model

#: Families whose config.json spells a size in a way that PEFT does not read (MPT: n_heads; DistilBERT: dim).
#: Source: peft 0.21, peft/utils/other.py, _prepare_prompt_learning_config.
UNREAD = {"mpt": "number of heads", "distilbert": "width of the embeddings"}


def check(model: Model) -> None:
    """Refuse a family whose sizes PEFT can't read.

    Raises:
        PlanError: naming the family.
    """
    if model.model_type in UNREAD:
        unread = UNREAD[model.model_type]
        message = f"PEFT can't read the {unread} from a {model.model_type} config: use another method"
        raise refusal("method.name", message, model.model_type)
