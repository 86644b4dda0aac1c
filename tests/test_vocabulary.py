"""The words that code and texts do not use: private metaphors, and phrases that a reader has to decode."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("calculator", "app", "validation")

#: Words that no identifier contains. A word is a part of a name between underscores.
NAMES = {"told", "held", "lies", "said", "asked", "beside", "likewise", "thereof", "fullest"}

#: Names of variables, parameters and attributes that do not say what they are.
EMPTY_VARIABLES = {"apart", "behind", "both", "found", "made"}

#: Fields of the JSON API that keep such a name.
FIELDS = {
    ("app/api/answers/diagnose.py", "found"),
    ("calculator/diagnosis/diagnosis.py", "found"),
    ("calculator/diagnosis/message.py", "found"),
}

#: Functions and classes that are only a preposition or an adverb say nothing about what they return.
EMPTY_NAMES = {
    "again",
    "alone",
    "apart",
    "around",
    "behind",
    "by",
    "elsewhere",
    "further",
    "lonely",
    "most",
    "off",
    "on",
    "put",
    "puts",
    "such",
    "that",
    "together",
    "what",
    "which",
    "with",
}

#: Phrases that no text has.
PHRASES = re.compile(
    r"\b(told|lies|thereof|thereby|wherein|likewise|as it were|goes its way|comes to|for want of|in the place of"
    r"|no fewer|no less than|come to be|fullest)\b",
    re.IGNORECASE,
)

SOURCES = {path: path.read_text() for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TEXTS = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(path for path in (ROOT / "templates").rglob("*") if path.is_file()),
    ]
)


#: The allocator's loops, whose names still change with their code.
EXEMPT = "calculator/allocator/"

#: A function or class, and a name that a statement binds.
DEFINITION = re.compile(r"^\s*(?:def|class) (\w+)[(:\[]", re.MULTILINE)
BOUND = re.compile(r"\b(?:def|class|for|as) (\w+)|^\s*(?:\w+\.)?(\w+)(?:: [^=\n]+)? = ", re.MULTILINE)


def found(pattern):
    """The names that a pattern finds in the packages, with the path of each."""
    return {
        (path.relative_to(ROOT).as_posix(), name)
        for path, text in SOURCES.items()
        for match in pattern.finditer(text)
        for name in match.groups()
        if name
    }


def test_no_name_is_a_private_metaphor():
    assert [(path, name) for path, name in found(BOUND) if NAMES & {*name.lower().split("_")}] == []


def test_no_function_or_class_is_named_by_a_preposition_alone():
    assert [(path, name) for path, name in found(DEFINITION) if name.strip("_") in EMPTY_NAMES] == []


def variables(tree):
    """The names of variables, parameters and attributes that a module binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def bound_variables():
    """The variables, parameters and attributes of the packages, with the path of each."""
    paths = {path: path.relative_to(ROOT).as_posix() for path in SOURCES}
    return {
        (relative, name)
        for path, relative in paths.items()
        if not relative.startswith(EXEMPT)
        for name in variables(ast.parse(SOURCES[path]))
    }


def test_names_of_functions_and_classes_begin_with_what_they_are():
    assert [(path, name) for path, name in found(DEFINITION) if name.strip("_").startswith("of_")] == []


def test_variables_and_attributes_begin_with_what_they_are():
    assert [(path, name) for path, name in bound_variables() if name.lstrip("_").startswith("of_")] == []


def test_variables_and_attributes_say_what_they_are():
    assert [(path, name) for path, name in bound_variables() - FIELDS if name.strip("_") in EMPTY_VARIABLES] == []


def test_no_text_has_a_phrase_that_a_reader_has_to_decode():
    lines = [
        (path.relative_to(ROOT).as_posix(), number, match[0])
        for path in (*SOURCES, *TEXTS)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for match in PHRASES.finditer(line)
    ]
    assert lines == []
