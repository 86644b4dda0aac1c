"""Folders with small models that read images, and their processors."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

TEXT = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}

#: The tower has 24 × 24 patches as that of LLaVA 1.5, so that images are as many tokens.
LLAVA = {
    "model_type": "llava",
    "image_token_index": 2,
    "text_config": TEXT,
    "vision_config": {"model_type": "clip_vision_model", **TOWER, "image_size": 96, "projection_dim": 16},
}
IDEFICS3 = {
    "model_type": "idefics3",
    "image_token_id": 2,
    "scale_factor": 2,
    "text_config": TEXT,
    "vision_config": {"model_type": "idefics3_vision", **TOWER, "image_size": 32},
}

#: A chat template as those of models that read images: places of images and texts, one after the other.
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
)

SPECIAL = ["<image>", "<fake_token_around_image>", "<end_of_utterance>"]


def tokenizer():
    """A tokenizer of a few words, with the tokens of images."""
    vocabulary = ["[UNK]", "[EOS]", *SPECIAL, "the", "step"]
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]", additional_special_tokens=SPECIAL
    )


def llava(folder):
    """Save a small LLaVA and its processor."""
    _save_model(LLAVA, folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
        tokenizer=tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def idefics3(folder):
    """Save a small Idefics 3 and its processor. FSDP2 runs it, unlike LLaVA."""
    _save_model(IDEFICS3, folder)
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(do_image_splitting=False, **sizes),
        tokenizer=tokenizer(),
        image_seq_len=16,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _save_model(config, folder):
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder)
