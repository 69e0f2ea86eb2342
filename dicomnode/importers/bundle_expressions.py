"""The small grammar of `$` expressions: parsed, walked and computed here, never handed to Python.

Constants, references, arithmetic, lists and tables, conditions, one-level comprehensions, and the few functions of a
table. Everything else is refused by name, and the work that one expression may cause is bounded.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain
from typing import cast

from dicomnode.errors import ModelError
from dicomnode.importers.bundle_values import SEPARATOR, Component, Evaluate, Formula, Known, Word

_REFERENCE = re.compile(r"@((?:#|::)*\w+(?:(?:#|::)\w+)*)")
_PLACEHOLDER = "reference_{}_"
_LONGEST_TEXT = 4_000
_MOST_STEPS = 500_000
_MOST_ITEMS = 10_000  # of any value, everything in it counted: then no operation on it can take long
_LARGEST = 1e15

_OPERATORS: Mapping[type[ast.AST], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


def _range(*bounds: int) -> list[int]:
    found = range(*bounds)
    if len(found) > _MOST_ITEMS:
        raise ValueError(f"a range of {len(found)}")
    return list(found)


def _joined(*parts: str) -> str:
    return "/".join(parts)


_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "abs": abs,
    "bool": bool,
    "float": float,
    "int": int,
    "len": len,
    "list": list,
    "max": max,
    "min": min,
    "range": _range,
    "round": round,
    "set": set,
    "sorted": sorted,
    "str": str,
    "sum": sum,
    "tuple": tuple,
    "copy.copy": lambda value: value,
    "copy.deepcopy": lambda value: value,  # values here never change
    "os.path.join": _joined,
    "torch.cuda.is_available": lambda: False,  # the node places networks itself
    "torch.cuda.device_count": lambda: 0,
    "torch.device": lambda *_: Word("torch.device"),
}
_MODULES = ("torch", "numpy", "np")
_FLOATS = ("float16", "float32", "float64", "half", "float", "double", "bfloat16")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_WORDS = frozenset(f"{module}.{name}" for module in _MODULES for name in (*_FLOATS, *_INTEGERS))
_METHODS = frozenset({"to", "cpu", "cuda", "eval", "float"})  # of a network: none changes what it computes
_NEVER = frozenset(
    {
        *("eval", "exec", "compile", "open", "input", "breakpoint", "globals", "locals", "vars", "getattr", "delattr"),
        *("importlib", "builtins", "subprocess", "pickle", "ctypes", "socket", "shutil", "system", "popen"),
    }
)


@dataclass(slots=True)
class _Walk:
    """One expression being computed."""

    file: str
    key: str
    text: str
    references: Mapping[str, str]  # placeholder -> what it stands for
    evaluate: Evaluate
    refer: Callable[[str, str], object]
    names: dict[str, object] = field(default_factory=dict[str, object])  # of a comprehension
    steps: int = 0

    def error(self, problem: str) -> ModelError:
        return _refusal(self.file, self.key, self.text, problem)

    def visit(self, node: ast.AST) -> object:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise self.error(f"more than {_MOST_STEPS} steps")
        rule = _RULES.get(type(node))
        if rule is None:
            raise self.error(f"the construct {type(node).__name__}")
        value = rule(self, node)
        self.steps += self.weight(value)
        return value

    def weight(self, value: object) -> int:
        """How much a value holds, counted wherever it appears: shared lists grow as fast as copied ones."""
        if isinstance(value, int | float) and not abs(value) <= _LARGEST:
            raise self.error("a number beyond all sense")
        if (found := _items(value, _MOST_ITEMS)) > _MOST_ITEMS:
            raise self.error(f"a value of more than {_MOST_ITEMS} items")
        return found


def compute(text: str, place: tuple[str, str], evaluate: Evaluate, refer: Callable[[str, str], object]) -> object:
    """The value of an expression, without its "$".

    Args:
        text: the expression.
        place: file and key, for messages.
        evaluate: gives the value of a component's argument.
        refer: gives the value of a reference such as "network_def::in_channels" or "#0", seen from a key.

    Raises:
        ModelError: it is outside the grammar, or cannot be computed.
    """
    file, key = place
    tree, references = _parse(text, file, key)
    walk = _Walk(file, key, text, references, evaluate, refer)
    try:
        return walk.visit(tree.body)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise _refusal(file, key, text, f"{type(error).__name__}: {error}") from error


def check_harmless(text: str, file: str, key: str) -> None:
    """Refuse an expression that reaches for the interpreter, even where its value is of no use to the node.

    Raises:
        ModelError: it does.
    """
    tree, _ = _parse(text, file, key)
    for node in ast.walk(tree):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name.startswith("__") or name in _NEVER:
            raise _refusal(file, key, text, f"the name {name!r}, code that no segmentation needs")


def _parse(text: str, file: str, key: str) -> tuple[ast.Expression, dict[str, str]]:
    if len(text) > _LONGEST_TEXT:
        raise _refusal(file, key, text, f"{len(text)} characters")
    references: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = _PLACEHOLDER.format(len(references))
        references[name] = match[1]
        return name

    try:
        return ast.parse(_REFERENCE.sub(placeholder, text).strip(), mode="eval"), references
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refusal(file, key, text, f"no expression ({type(error).__name__})") from error


def _refusal(file: str, key: str, text: str, problem: str) -> ModelError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    hint = "write the value itself in the config"
    return ModelError(f"{file}: {key}: expected an expression of docs/models.md, found {problem} in ${shown}; {hint}")


def _items(value: object, most: int) -> int:
    """Items and characters in a value; counting stops soon after `most`."""
    if isinstance(value, str):
        return 1 + len(value)
    if not isinstance(value, list | tuple | set | dict):
        return 1
    found = 1
    inside = chain(cast("Mapping[object, object]", value), value.values() if isinstance(value, dict) else ())
    for item in inside:
        found += _items(item, most - found)
        if found > most:
            break
    return found


def _constant(walk: _Walk, node: ast.Constant) -> object:
    if node.value is None or isinstance(node.value, bool | int | float | str):
        return node.value
    raise walk.error(f"the constant {node.value!r}")


def _name(walk: _Walk, node: ast.Name) -> object:
    if node.id in walk.names:
        return walk.names[node.id]
    if node.id in walk.references:
        return walk.refer(walk.references[node.id], walk.key)
    raise walk.error(f"the name {node.id!r}")


def _dotted(node: ast.expr) -> str:
    """ "torch.float32" of such a node, "" of others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _attribute(walk: _Walk, node: ast.Attribute) -> object:
    name = _dotted(node)
    if name in _WORDS:
        return Word(name)
    raise walk.error(f"the name {name or node.attr!r}")


def _binary(walk: _Walk, node: ast.BinOp) -> object:
    operation = _OPERATORS.get(type(node.op))
    if operation is None:
        raise walk.error(f"the operator {type(node.op).__name__}")
    left, right = walk.visit(node.left), walk.visit(node.right)
    if isinstance(node.op, ast.Mult) and _repeats(left, right):
        raise walk.error(f"a value repeated more than {_MOST_ITEMS} times")
    if isinstance(node.op, ast.Mod) and isinstance(left, str):
        raise walk.error("text formatted by %")
    return operation(left, right)


def _repeats(left: object, right: object) -> bool:
    """Whether a product would be longer than is allowed: decided before it is made."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, Sized) and isinstance(times, int) and len(many) * times > _MOST_ITEMS:
            return True
    return False


def _unary(walk: _Walk, node: ast.UnaryOp) -> object:
    operation = _OPERATORS.get(type(node.op))
    if operation is None:
        raise walk.error(f"the operator {type(node.op).__name__}")
    return operation(walk.visit(node.operand))


def _boolean(walk: _Walk, node: ast.BoolOp) -> object:
    value: object = None
    for part in node.values:
        value = walk.visit(part)
        if bool(value) == isinstance(node.op, ast.Or):
            return value
    return value


def _comparison(walk: _Walk, node: ast.Compare) -> object:
    left = walk.visit(node.left)
    for operation, part in zip(node.ops, node.comparators, strict=True):
        right = walk.visit(part)
        if not _OPERATORS[type(operation)](left, right):
            return False
        left = right
    return True


def _condition(walk: _Walk, node: ast.IfExp) -> object:
    return walk.visit(node.body if walk.visit(node.test) else node.orelse)


def _list(walk: _Walk, node: ast.List) -> object:
    return [walk.visit(item) for item in node.elts]


def _tuple(walk: _Walk, node: ast.Tuple) -> object:
    return tuple(walk.visit(item) for item in node.elts)


def _set(walk: _Walk, node: ast.Set) -> object:
    return {walk.visit(item) for item in node.elts}


def _table(walk: _Walk, node: ast.Dict) -> object:
    if any(key is None for key in node.keys):
        raise walk.error("a table unpacked with **")
    keys = [walk.visit(key) for key in node.keys if key is not None]
    return dict(zip(keys, (walk.visit(value) for value in node.values), strict=True))


def _subscript(walk: _Walk, node: ast.Subscript) -> object:
    value = walk.visit(node.value)
    if isinstance(value, list | tuple | dict | str):
        return cast("Mapping[object, object]", value)[walk.visit(node.slice)]
    raise walk.error(f"an index into a {type(value).__name__}")


def _slice(walk: _Walk, node: ast.Slice) -> object:
    return slice(*(walk.visit(part) if part else None for part in (node.lower, node.upper, node.step)))


def _comprehension(walk: _Walk, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> object:
    if len(node.generators) != 1 or not isinstance(node.generators[0].target, ast.Name):
        raise walk.error("a comprehension over more than one name")
    loop = node.generators[0]
    name, before = cast("ast.Name", loop.target).id, dict(walk.names)
    found: list[object] = []
    for item in cast("Iterable[object]", walk.visit(loop.iter)):
        walk.names[name] = item
        if all(walk.visit(test) for test in loop.ifs):
            found.append(walk.visit(node.elt))
    walk.names = before
    return set(found) if isinstance(node, ast.SetComp) else found


def _lambda(_: _Walk, node: ast.Lambda) -> object:
    return Formula(node)


def _call(walk: _Walk, node: ast.Call) -> object:
    if any(keyword.arg is None for keyword in node.keywords) or any(isinstance(a, ast.Starred) for a in node.args):
        raise walk.error("arguments unpacked with *")
    name = _dotted(node.func)
    if name in _FUNCTIONS:
        if node.keywords:
            raise walk.error(f"arguments by name for {name}")
        return _FUNCTIONS[name](*(walk.visit(argument) for argument in node.args))
    if name.startswith("monai.networks.nets."):
        return _built(walk, node, name)
    if isinstance(node.func, ast.Attribute):
        return _method(walk, node.func)
    raise walk.error(f"a call of {name or 'something without a name'}")


def _built(walk: _Walk, node: ast.Call, name: str) -> Component:
    if node.args:
        raise walk.error(f"arguments of {name} without names")
    arguments = {str(keyword.arg): Known(walk.visit(keyword.value)) for keyword in node.keywords}
    return Component(walk.file, walk.key, name, arguments, walk.evaluate)


def _method(walk: _Walk, function: ast.Attribute) -> object:
    if function.attr not in _METHODS:
        raise walk.error(f"a call of {_dotted(function) or function.attr!r}")
    value = walk.visit(function.value)
    if isinstance(value, Component):
        return value
    raise walk.error(f"a call of {function.attr!r} on a {type(value).__name__}")


_RULES: Mapping[type[ast.AST], Callable[..., object]] = {
    ast.Attribute: _attribute,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.Call: _call,
    ast.Compare: _comparison,
    ast.Constant: _constant,
    ast.Dict: _table,
    ast.GeneratorExp: _comprehension,
    ast.IfExp: _condition,
    ast.Lambda: _lambda,
    ast.List: _list,
    ast.ListComp: _comprehension,
    ast.Name: _name,
    ast.Set: _set,
    ast.SetComp: _comprehension,
    ast.Slice: _slice,
    ast.Subscript: _subscript,
    ast.Tuple: _tuple,
    ast.UnaryOp: _unary,
}


def absolute_key(reference: str, key: str) -> str:
    """ "network_def#norm" -> "network_def::norm"; "#0" and "##a" are looked for beside and above `key`."""
    normal = reference.replace("#", SEPARATOR)
    parts, levels = key.split(SEPARATOR), 0
    while normal.startswith(SEPARATOR):
        normal, levels = normal.removeprefix(SEPARATOR), levels + 1
    before: Sequence[str] = parts[: len(parts) - levels] if levels else ()
    return SEPARATOR.join([*before, normal])
