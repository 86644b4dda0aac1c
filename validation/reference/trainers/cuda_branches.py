"""Imports of libraries in which the meta device counts as CUDA: their tests of `device.type` are rewritten.

`x.device.type == "cuda"` becomes `x.device.type in ("cuda", "meta")`, a list of types with "cuda" gets "meta", one
without it loses "meta", and `x.is_cuda` is true on meta too.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

#: Packages whose modules choose between CUDA's and other code by the device of their tensors.
PACKAGES = ("liger_kernel", "trl", "cut_cross_entropy")


class _Rewriter(ast.NodeTransformer):
    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        left, operator, right = node.left, node.ops[0], node.comparators[0]
        if len(node.ops) != 1 or not isinstance(left, ast.Attribute) or left.attr != "type":
            return node
        devices = _devices(right)
        if not {"cuda", "meta"} & {*devices} or not isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
            return node
        names = (*devices, "meta") if "cuda" in devices else [name for name in devices if name != "meta"]
        choices = ast.Tuple([ast.Constant(name) for name in names], ast.Load())
        negated = isinstance(operator, ast.NotEq | ast.NotIn)
        return ast.copy_location(ast.Compare(left, [ast.NotIn() if negated else ast.In()], [choices]), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "is_cuda" or not isinstance(node.ctx, ast.Load):
            return node
        meta = ast.Attribute(node.value, "is_meta", ast.Load())
        return ast.copy_location(ast.BoolOp(ast.Or(), [node, meta]), node)


def _devices(node: ast.expr) -> list[Any]:
    """Return the constants that a device's type is compared with."""
    nodes = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return [item.value for item in nodes if isinstance(item, ast.Constant)]


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the rewritten source; no cache keeps it."""
        path = self.get_filename(fullname)
        tree = _Rewriter().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Finder(PathFinder):
    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a module of `PACKAGES`, with a loader that rewrites it."""
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec: Any = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Rewrite the packages when they are imported from now on."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
