"""A small model in a folder."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.app.interop.exports import readers_of_images
from tests.tiny_models import LLAMA


@pytest.fixture
def small_model(tmp_path):
    """A folder with a small model and a tokenizer, because the catalogue's model would have to be fetched."""
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA), dtype=torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "step": 2, "[EOS]": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(folder)
    return folder


@pytest.fixture
def small_llava(tmp_path):
    """A folder with a small LLaVA and its processor."""
    pytest.importorskip("PIL", reason="scripts with images need Pillow")
    return readers_of_images.llava(tmp_path / "model")


@pytest.fixture
def small_idefics3(tmp_path):
    """A folder with a small Idefics 3 and its processor."""
    pytest.importorskip("PIL", reason="scripts with images need Pillow")
    return readers_of_images.idefics3(tmp_path / "model")
