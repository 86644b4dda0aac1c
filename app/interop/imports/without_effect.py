"""Keys that do not change the memory of a training step, or that repeat other keys, by format."""

import json
from importlib.resources import files

WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    name: tuple(keys)
    for name, keys in json.loads(files(__package__).joinpath("without_effect.json").read_text(encoding="utf-8")).items()
}
