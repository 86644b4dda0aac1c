"""Keys that the memory of a training step does not depend on, or that other keys already say, by format."""

import json
from importlib.resources import files

WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    name: tuple(keys)
    for name, keys in json.loads(files(__package__).joinpath("without_effect.json").read_text(encoding="utf-8")).items()
}
