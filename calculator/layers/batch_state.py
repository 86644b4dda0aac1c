"""The inputs of a forward pass from a batch and an encoder, and the outputs of the model besides the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calculator.engine.offloading import OffloadedActivations
    from calculator.engine.tape import Tensor
    from calculator.layers.cache import Cache


class BatchState:
    """The tensors of a batch, of an encoder and of images. Each is set when the pass reaches it."""

    __slots__ = (
        "caller_tensors",
        "decoder_cache",
        "decoder_ids",
        "decoder_past",
        "encoded_images",
        "encoder_mask",
        "encoder_states",
        "generates",
        "hidden_states",
        "image_features",
        "image_outputs",
        "images",
        "is_causal",
        "kept_by_method",
        "labels",
        "num_items",
        "offloaded",
        "padding_mask",
        "passed",
        "passed_labels",
        "position_biases",
        "returned_cache",
        "sample_bounds",
        "scalings",
        "texts",
    )

    def __init__(self, *, is_causal: bool) -> None:
        #: The hooks that offload saved tensors to host memory.
        self.offloaded: OffloadedActivations | None = None
        #: Whether attention is causal. In an encoder-decoder, that of the stack that runs.
        self.is_causal = is_causal
        #: The input of a decoder, and the encoder's output and mask that it attends to once it runs.
        self.decoder_ids: Tensor | None = None
        #: Whether `generate` runs the model, which then has no labels.
        self.generates = False
        #: The cache of a prefix that only the decoder has, and the number of its tokens.
        self.decoder_cache: Cache | None = None
        self.decoder_past = 0
        self.encoder_states: Tensor | None = None
        self.encoder_mask: Tensor | None = None
        #: The position biases that the layers of a stack share, by whether they belong to cross-attention.
        self.position_biases: dict[bool, Tensor] = {}
        #: The object that the family's decoder passes to its layers in addition to the hidden states.
        self.passed: Any = None
        #: The padding mask that the model is given, if it is not that of the batch.
        self.padding_mask: Tensor | None = None
        #: The labels of a batch, if they are not the tokens themselves.
        self.labels: list[Tensor] = []
        #: The texts of each example, which are embedded one after the other: their ids and masks.
        self.texts: list[tuple[Tensor, Tensor]] = []
        #: The labels that a method lengthens and the model passes to its layers.
        self.passed_labels: Tensor | None = None
        #: The number of labels in a step, which a trainer passes to the model.
        self.num_items: Tensor | None = None
        #: Where each sample of a flattened batch begins, if the batch includes that.
        self.sample_bounds: Tensor | None = None
        #: The tensors that images add to a batch, the pixels first.
        self.images: list[Tensor] = []
        #: The tokens of images, if `generate` ran the tower before the model.
        self.encoded_images: list[Tensor] | None = None
        #: The tensors that the loop keeps alive: the batch and the loss.
        self.caller_tensors: list[Tensor] = []
        #: The outputs of the model in addition to the loss and the logits: the cache, and tensors that images add. Each
        #: tensor has the number of images that it is split into.
        self.returned_cache: Cache | None = None
        self.image_outputs: list[tuple[Tensor, int]] = []
        #: The features that the first layers of the decoder add to the hidden states of images, each with the mask of
        #: these states.
        self.image_features: list[tuple[Tensor, Tensor]] = []
        #: The hidden states that a pass returns (output_hidden_states): the input of the first layer, and the output of
        #: each. None if it returns none.
        self.hidden_states: list[Tensor] | None = None
        #: The scalings of mixed adapters in this pass, and the tensor that the method's model keeps between passes.
        self.scalings: Tensor | None = None
        self.kept_by_method: Tensor | None = None

    def keep_hidden_states(self, hidden_states: Tensor, *, is_last: bool = False) -> Tensor:
        """Keep hidden states if the pass returns them. The output of the last norm replaces that of the last layer."""
        if self.hidden_states is not None:
            self.hidden_states[len(self.hidden_states) - is_last :] = [hidden_states]
        return hidden_states

    def drop_graph(self) -> None:
        """Drop what refers to the graph of the step.

        Checkpoints and offloaded tensors refer back, and only the garbage collector would free the cycle.
        """
        self.caller_tensors = []
        if self.offloaded is not None:
            self.offloaded.drop_graph()

    def drop_outputs(self) -> None:
        """Drop what the model returned in addition to the loss and the logits."""
        self.returned_cache, self.image_outputs = None, []
