"""A tokenizer.json, which counts tokens. It is data: no code of a repository is run.

Needs the package tokenizers, which the extra `lengths` installs.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The file of a tokenizer's directory.
FILE = "tokenizer.json"

#: The number of texts that are encoded at once.
BATCH = 256

MISSING = "counting tokens needs the package tokenizers: pip install 'headroom-gpu[lengths]'"


def tokenizer_of(path: str) -> Any:
    """Return the tokenizer of a directory or of a tokenizer.json.

    Raises:
        PlanError: if the package is missing, or the file is no tokenizer.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415  an extra
    except ImportError as error:
        raise refusal("--tokenizer", MISSING, path) from error
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        message = f"there is no file {str(file)!r}: give a tokenizer.json, or the directory that has one"
        raise refusal("--tokenizer", message, path)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises Exception itself
        raise refusal("--tokenizer", f"{str(file)!r} is not a tokenizer.json: {error}", path) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_counts(tokenizer: Any, texts: Iterable[str]) -> Iterator[int]:
    """Yield the tokens of each text, special tokens included."""
    rest = iter(texts)
    while batch := list(islice(rest, BATCH)):
        for encoding in tokenizer.encode_batch(batch):
            yield len(encoding.ids)
