"""The two formulas that published bundles write as `lambda`, recognised by their shape; no formula is ever called."""

import ast

from dicomnode.importers.bundle_values import Formula


def only_replaces_nan(formula: Formula) -> bool:
    """Whether it is `lambda x: torch.nan_to_num(x, ...)`."""
    call, name = formula.tree.body, _parameter(formula)
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "torch.nan_to_num" or len(call.args) != 1:
        return False
    return isinstance(call.args[0], ast.Name) and call.args[0].id == name


def labels_of_region_sets(formula: Formula, regions: int) -> dict[int, int] | None:
    """The label of each set of regions (bit i: in region i), of `lambda x: torch.where(x[[2]] > 0, 4, ...)`.

    The formula is a chain of `torch.where(x[[REGION]] > 0, LABEL, REST)`; None: it is another.
    """
    name, chain, rest = _parameter(formula), list[tuple[int, int]](), formula.tree.body
    while isinstance(rest, ast.Call):
        link = _link(rest, name)
        if link is None or link[0] >= regions:
            return None
        chain.append(link)
        rest = rest.args[2]
    otherwise = _whole(rest)
    if otherwise is None or not chain:
        return None
    sets = range(1, 1 << regions)
    return {found: next((label for region, label in chain if found >> region & 1), otherwise) for found in sets}


def _link(call: ast.Call, name: str) -> tuple[int, int] | None:
    """Region and label of one `torch.where(x[[REGION]] > 0, LABEL, REST)`."""
    if ast.unparse(call.func) != "torch.where" or len(call.args) != 3 or call.keywords:
        return None
    test, label = call.args[0], _whole(call.args[1])
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Gt) or _whole(test.comparators[0]) != 0:
        return None
    place = test.left
    if not isinstance(place, ast.Subscript) or ast.unparse(place.value) != name or len(test.ops) != 1:
        return None
    index = place.slice.elts[0] if isinstance(place.slice, ast.List) and len(place.slice.elts) == 1 else place.slice
    region = _whole(index)
    return None if region is None or label is None else (region, label)


def _whole(node: ast.expr) -> int | None:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _parameter(formula: Formula) -> str:
    arguments = formula.tree.args
    return arguments.args[0].arg if len(arguments.args) == 1 else ""
