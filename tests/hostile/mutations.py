"""Mutations of JSON values, of text and of bytes. `chance` decides: a `random.Random`, or hypothesis' own."""

import json

#: Values that parsers tend to mistake: limits of integers and floats, empty and long texts, other types.
HOSTILE = (
    *(None, True, False, 0, -1, 1, 2, 7, 1 << 31, 1 << 63, -(1 << 63) - 1, 10**40),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("nan")),
    *("", " ", "0", "1e9", "null", "NaN", "\x00", "\ud800", "é́", "😀", "x" * 3000, "../../etc/passwd", "http://[::1"),
    *("<script>alert(1)</script>", "{{7*7}}", "%s%n", "' OR 1=1 --", "a.b.c", "__class__", "*", "\\", "\r\n", "٣"),
    *([], {}, [None], [[[[]]]], {"": ""}, ["q_proj"] * 40, {"a": {"b": {"c": {"d": {}}}}}),
)

#: Text between which a mutation puts it: of JSON, YAML, Python, a query and HTML.
PIECES = (
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        ":",
        ",",
        "&",
        "=",
        "%",
        "%00",
        "%FF",
        "+",
        "#",
        "\t",
        "\n",
        "\x00",
        "\ufeff",
        "\u2028",
    ),
    *("- ", "? ", "!!python/object/apply:os.system ['id']", "&a [*a]", "*a", "<<: ", "|2\n", "---\n", "..."),
    *(
        "(" * 300,
        "[" * 3000,
        "-" * 3000,
        "9" * 5000,
        "1e999999",
        "0x",
        "\\u0000",
        "lambda: ",
        "f'{",
        '"""',
        "import os\n",
    ),
)


def value(chance, original):
    """Mutate some part of a JSON value."""
    if isinstance(original, dict) and original and chance.random() < 0.9:
        return _object(chance, original)
    if isinstance(original, list) and original and chance.random() < 0.8:
        place = chance.randrange(len(original))
        return [*original[:place], value(chance, original[place]), *original[place + 1 :]]
    return _scalar(chance, original)


def _object(chance, original):
    key = chance.choice(sorted(original))
    others = {name: part for name, part in original.items() if name != key}
    draw = chance.random()
    if draw < 0.08:
        return others
    if draw < 0.16:
        return {**others, text(chance, key): original[key]}
    if draw < 0.24:
        return {**original, chance.choice(sorted(original)): chance.choice(HOSTILE)}
    return {**original, key: value(chance, original[key])}


def _scalar(chance, original):
    draw = chance.random()
    if draw < 0.3 and isinstance(original, int | float) and not isinstance(original, bool):
        return chance.choice([original + 1, original - 1, -original, original * 2, original / 2, original * 10**12])
    if draw < 0.3 and isinstance(original, str):
        return text(chance, original)
    return chance.choice(HOSTILE)


def text(chance, original):
    """Mutate a text: cut it, repeat a part, or put a piece in."""
    start = chance.randint(0, len(original))
    end = min(len(original), start + chance.randint(0, 12))
    draw = chance.random()
    if draw < 0.25:
        return original[:start] + original[end:]
    if draw < 0.4:
        return original[:start]
    if draw < 0.55:
        return original[:end] + original[start:]
    return original[:start] + chance.choice(PIECES) + original[start if draw < 0.8 else end :]


def raw(chance, original):
    """Mutate bytes."""
    start = chance.randint(0, len(original))
    draw = chance.random()
    if draw < 0.3:
        return original[:start]
    if draw < 0.6:
        return original[:start] + bytes([chance.randrange(256)]) + original[start + 1 :]
    return original[:start] + chance.choice(PIECES).encode("utf-8", "surrogatepass") + original[start:]


def several(chance, mutate, original):
    """Apply a mutation once or a few times."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        original = mutate(chance, original)
    return original


def dumped(body):
    """The JSON of a body, with NaN and lone surrogates as Python writes them."""
    return json.dumps(body).encode()
