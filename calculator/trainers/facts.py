"""The facts about a trainer that do not depend on the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerDefault:
    """A default in a trainer's own configuration, or the least value of a setting, with its source."""

    #: The setting's path in a request.
    path: str
    value: Any
    source: str
    #: True: only for methods that train the base weights. False: only for those that do not. None: for all.
    trains_base: bool | None = None
    #: Whether it is the least value that the trainer accepts. A request with a larger value keeps its own.
    is_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerFacts:
    """The facts about one training loop. The step, the answer's sentences and the page read them here."""

    #: The trainer's name in words.
    label: str
    #: The source of its step.
    source: str
    #: Sentences on the changes that the choice of this trainer makes.
    summary: str
    #: The defaults of the trainer that differ from those of a request.
    defaults: tuple[TrainerDefault, ...] = ()
    #: The number of sequences in each row of a micro-batch: two if a row is a pair.
    sequences: int = 1
    #: Whether each sequence begins with a prompt, so that its first token has no label.
    has_prompts: bool = False
    #: Whether its step is modeled on one GPU only.
    on_one_gpu: bool = False
    #: Whether it compares the model with a reference.
    compares: bool = False
    #: Whether the first micro-batch of a step does more than the others, because it scores the completions of all.
    generates: bool = False
    #: Whether a micro-batch can start with no-grad passes of the model that it then trains.
    runs_no_grad_first: bool = False
    #: Whether it sets the probabilities of torch.nn.Dropout modules to 0, as `disable_dropout` does.
    disables_dropout: bool = False
    #: The (batch, sequence) tensors of each batch that a step fetches at once. Empty if the batch is on the tape.
    batch: tuple[str, ...] = ()
    #: The scalars that the loop keeps on the device from step to step.
    scalars: tuple[str, ...] = ()
    #: Whether it leaves `use_cache` as the model's config sets it.
    uses_cache: bool = True
    #: When the embeddings get a gradient even if nothing before them is trained, which PEFT requires of checkpointing.
    grads_inputs: Literal["checkpointed", "always", "never"] = "checkpointed"
    #: Whether 8-bit optimizers keep the states of `torch.nn.Embedding` weights in 32 bits.
    embeddings_in_32_bits: bool = False
    #: Whether the initial states of an optimizer are moved to the device, including step counters.
    moves_states: bool = False
    #: Whether the optimizer has two parameter groups: with and without weight decay.
    decay_groups: bool = False
    #: Whether the norm of the gradients is kept, and computed even if it clips nothing.
    keeps_norm: bool = False
    #: Whether the loop refers to the norm of clipped gradients while the optimizer steps.
    returns_norm: bool = False
    #: Whether the loss of a step lives until the forward pass of the next step ends.
    keeps_loss: bool = False
    #: Whether its checkpointing can keep the inputs of layers in host memory.
    offloads: bool = False
    #: Whether its config has an option `activation_offloading`, false by default, which offloads saved tensors.
    offloads_saved_tensors: bool = False
    #: Whether it loads and saves in its own formats, which are not modeled.
    has_own_files: bool = False
    #: Whether the answer is an interval, because the trainer depends on something that a request does not state.
    is_interval: bool = False
    #: What the answer's assumptions say about it.
    assumptions: tuple[str, ...] = ()

    @property
    def runs_other_passes(self) -> bool:
        """Whether a micro-batch can have passes other than the trained one."""
        return self.compares or self.generates or self.runs_no_grad_first
