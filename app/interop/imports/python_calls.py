"""The arguments of the calls in Python code that set up a training run. The code is parsed, never run."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from app.http.problems import shortened
from app.interop.imports.exported_adapters import adapters_in
from app.interop.imports.exported_images import images_in
from app.interop.imports.exported_launch import launch_in
from app.interop.imports.exported_loop import loop_in
from app.interop.imports.exported_rows import rows_in
from app.interop.imports.frozen_parameters import frozen_in
from app.interop.imports.keys import Keys, Script
from app.interop.imports.literals import UNREAD
from app.interop.imports.other_classes import is_other, nothing_read
from app.interop.imports.peft_adapter import OF_CLASSES
from app.interop.imports.pinned import pins
from app.interop.imports.python_cells import cells, is_notebook, parsed
from app.interop.imports.script_bases import METHODS, OF_TORCHAO
from app.interop.imports.script_names import Names
from app.interop.imports.tasks import LOADS, OF_REWARD, WITHOUT_HEAD, embeds, loads, trains_for
from app.interop.imports.trainer_classes import TRL_CLASSES, other_trainers, trainer_of
from calculator.common.errors import PlanError, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    #: The name of an argument, its value, and the expression.
    Argument = tuple[str, Any, ast.expr]

#: The longest code that is read, in characters; the outputs of a notebook's cells do not count.
LONGEST = 1 << 17

#: Code that sets up a run: a call of one of the classes below.
_CODE = re.compile(
    r"(?m)^(?![ \t]*#).*(?<!\w)(?:Fast(?:Language|Vision)?Model\.\w+|AutoModel\w*\.from_pretrained|LoraConfig"
    r"|\w{1,40}For(?:CausalLM|ConditionalGeneration)\.from_pretrained|BitsAndBytesConfig|TrainingArguments|\w{0,20}Trainer|(?:SFT|DPO|KTO|Reward|ORPO|GRPO|RLOO)Config|get_peft_model)\("
)

#: The calls whose arguments describe a run. Earlier ones count if several have the same argument.
_READ = re.compile(
    r"TrainingArguments|Seq2SeqTrainingArguments|(?:SFT|DPO|KTO|Reward|ORPO|GRPO|RLOO)(?:Config|Trainer)|Trainer"
    r"|Seq2SeqTrainer|LoraConfig|BitsAndBytesConfig|Fast(?:Language|Vision)?Model\.(?:from_pretrained|get_peft_model)"
    rf"|AutoModelForCausalLM\.from_pretrained|{'|'.join(map(re.escape, (*LOADS, WITHOUT_HEAD)))}|get_peft_model"
    rf"|prepare_model_for_kbit_training|{'|'.join(map(re.escape, (*METHODS, *OF_CLASSES)))}|{OF_TORCHAO}"
)

#: Unsloth's subclasses of TRL's.
OF_UNSLOTH = {"UnslothTrainer": "SFTTrainer", "UnslothTrainingArguments": "SFTConfig"}

#: Unsloth's collator of rows with images or audio, whose arguments are not read.
VISION_COLLATOR = "UnslothVisionDataCollator"


def _first_argument(name: str) -> str | None:
    """Return the name of the first argument of a call, where it may be a text."""
    if name.endswith("from_pretrained"):
        return "model_name"
    if name == "TorchAoConfig":
        return "quant_type"
    return "model" if name.endswith("Trainer") else None


#: Arguments that are objects of the script.
_OBJECTS = frozenset({"args", "peft_config", "quantization_config", "config", "tokenizer", "processing_class"})


def is_code(text: str) -> bool:
    """Return whether a text is Python code, or a notebook with it."""
    return is_notebook(text) or bool(_CODE.search(text[:LONGEST]))


def keys_of(text: str) -> Keys:
    """Return the arguments of the calls as keys.

    Raises:
        PlanError: if the code is too long, cannot be parsed, or sets up no run.
    """
    parts = cells(text) if is_notebook(text) else [text]
    code = "\n".join(parts)
    if len(code) > LONGEST:
        raise refusal("content", f"is longer than {LONGEST:,} characters: paste the cells with the settings", None)
    modules, wrong = [], list[SyntaxError]()
    for part in parts:
        try:
            modules.append(parsed(part))
        except SyntaxError as error:
            wrong.append(error)
        except (ValueError, RecursionError, MemoryError) as error:
            raise _nested() from error
    calls = _collect_calls(modules)
    if wrong and not calls.calls:
        message = f"is not Python: line {wrong[0].lineno}: {wrong[0].msg}"
        raise refusal("content", message, shortened(text)) from wrong[0]
    if not calls.calls:
        raise nothing_read(calls.others)
    calls.settle()
    script = Script(
        calls=tuple(calls.calls),
        others=tuple(calls.others),
        peft_config=calls.peft_config,
        unread=calls.unread,
        defaults=calls.defaults,
        pins=pins(code),
        frozen=frozen_in(modules),
        loop=loop_in(modules),
        rows=rows_in(modules),
        cut_length=calls.cut_length,
        adapters=adapters_in(modules),
        images=images_in(modules),
    )
    keys = Keys({**launch_in(code), **calls.arguments}, script)
    for mistake in wrong:
        line = shortened((mistake.text or "").strip())
        keys.miss("a cell", line, f"is not Python ({mistake.msg}): the cell is not read")
    for name in other_trainers(calls.calls):
        keys.miss(
            name,
            None,
            f"sets up another run before that of {trainer_of(calls.calls)}: to read it, paste only its cells",
        )
    return keys


def _collect_calls(modules: list[ast.Module]) -> _Calls:
    """Return the calls of modules, which are read twice: functions are called below their definition."""
    calls = _Calls(Names())
    try:
        for module in modules:
            calls.visit(module)
        again = _Calls(Names(calls.names))
        for module in modules:
            again.visit(module)
    except RecursionError as error:
        raise _nested() from error
    return again


def _nested() -> PlanError:
    return refusal("content", "is nested too deeply, or has characters that Python refuses", None)


class _Calls(ast.NodeVisitor):
    """The calls of a module in the order of its lines, and the values of its names at each."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.calls: list[str] = []
        #: The classes that set up a run and are not modeled, but for those that the code defines itself.
        self.others: list[str] = []
        self.arguments: dict[str, Any] = {}
        #: Those of the calls that load a model for a task. Such a model may only score answers.
        self.task_arguments: dict[str, list[Argument]] = {}
        #: Those of the calls that set up a run with TRL, of which one is read.
        self.trainer_arguments: list[tuple[str, list[Argument]]] = []
        self.unread: dict[str, str] = {}
        self.peft_config = ""
        self.cut_length: int | None = None
        #: The arguments whose value is a default of the code.
        self.defaults: dict[str, str] = {}

    def visit_If(self, node: ast.If) -> None:
        """Skip the branch that never runs."""
        test = UNREAD if self.names.is_default(node.test) else self.names.value(node.test)
        for part in (*(node.body if test is not False else ()), *(node.orelse if test is not True else ())):
            self.visit(part)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Note the value of each name."""
        self.visit(node.value)
        for target in node.targets:
            self.names.assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Note the value of a name."""
        if node.value is not None:
            self.visit(node.value)
            self.names.assign(node.target, node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Note the fields of a class."""
        self.names.read_class(node)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Read a function's body with its parameters."""
        for decorator in node.decorator_list:
            self.visit(decorator)
        with self.names.inside(node):
            for part in node.body:
                self.visit(part)

    def visit_Call(self, node: ast.Call) -> None:
        """Note the arguments of a call that describes the run, and those of the calls in it."""
        self.generic_visit(node)
        self.names.declare(node)
        self.names.called(node)
        called = _tail(node.func)
        if called.endswith("tokenizer") and self.cut_length is None:
            self.cut_length = self._cut_length(node)
        if is_other(called) and called not in OF_UNSLOTH and called not in self.names.classes:
            self.others.append(called)
        if called == VISION_COLLATOR:
            self.calls.append(called)
        name = _READ.fullmatch(OF_UNSLOTH.get(called, loads(called)))
        if name is None or (name[0] in self.calls and name[0].endswith("from_pretrained")):
            return
        self.calls += [name[0]] if name[0] == called else [name[0], called]
        given = [(key, self.names.value(argument), argument) for key, argument in self._arguments(name[0], node)]
        if name[0] in LOADS or name[0] == WITHOUT_HEAD:
            self.task_arguments[name[0]] = given
        elif name[0] in TRL_CLASSES:
            self.trainer_arguments.append((name[0], given))
        else:
            self._note(given)

    def _cut_length(self, node: ast.Call) -> int | None:
        """Return the number of tokens at which a tokenizer's call cuts a text; None if it does not."""
        given = {keyword.arg: self.names.value(keyword.value) for keyword in node.keywords}
        length = given.get("max_length")
        cuts = given.get("truncation") not in (None, False, UNREAD, "do_not_truncate")
        return length if cuts and type(length) is int else None

    def settle(self) -> None:
        """Note the arguments of the trainer that is read, and of the call that loads a task's model."""
        trainer = trainer_of(self.calls)
        for name, given in self.trainer_arguments:
            if TRL_CLASSES[name] == trainer:
                self._note(given)
        load = WITHOUT_HEAD if embeds(self.arguments, self.unread) else trains_for(self.calls)
        if trainer == "trl-reward":
            load = OF_REWARD
        self._note(self.task_arguments.get(load or "", ()))

    def _arguments(self, name: str, node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
        first = _first_argument(name)
        if first and node.args:
            yield first, node.args[0]
        if name == "get_peft_model" and node.args[1:]:
            yield "peft_config", node.args[1]
        for keyword in node.keywords:
            if keyword.arg is None:
                self.unread.setdefault("**", ast.unparse(keyword.value))
            else:
                named = first if first and keyword.arg.startswith("pretrained_model_name") else None
                yield named or keyword.arg, keyword.value

    def _note(self, given: Iterable[Argument]) -> None:
        for key, value, argument in given:
            if key == "model" and isinstance(argument, ast.Attribute) and value is UNREAD:
                self.unread.setdefault("model_name", str(shortened(ast.unparse(argument))))
            if key == "peft_config" and value is not None:
                self.peft_config = str(shortened(ast.unparse(argument)))
            if key in _OBJECTS or (key == "model" and not isinstance(value, str)):
                continue
            if value is not UNREAD:
                if key not in self.arguments and self.names.is_default(argument):
                    self.defaults[key] = str(shortened(ast.unparse(argument)))
                self.arguments.setdefault(key, value)
            elif key != "quant_type":  # a call of one of torchao's classes, which is noted by itself
                self.unread.setdefault(key, str(shortened(ast.unparse(argument))))


def _tail(function: ast.expr) -> str:
    """Return the last name of a called expression, with the name before it if it is a class."""
    if isinstance(function, ast.Name):
        return function.id
    if not isinstance(function, ast.Attribute):
        return ""
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    return f"{owner}.{function.attr}" if owner[:1].isupper() else function.attr
