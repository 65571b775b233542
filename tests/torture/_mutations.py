"""Small changes of Python source that a good test notices, each at one place.

``mutations`` finds the mutable places of a source on its syntax tree. A mutation replaces the text
of its place, so that the rest of the source keeps its lines.

No place is in a docstring, ``__all__``, a type annotation, the head of a class, a decorator, a
message, an f-string, a ``__repr__``, a line for debugging, or below ``if TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Mutation", "mutated", "mutations"]

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: (r"<", "<="),
    ast.LtE: (r"<=", "<"),
    ast.Gt: (r">", ">="),
    ast.GtE: (r">=", ">"),
    ast.Eq: (r"==", "!="),
    ast.NotEq: (r"!=", "=="),
    ast.Is: (r"\bis\b", "is not"),
    ast.IsNot: (r"\bis\s+not\b", "is"),
    ast.In: (r"\bin\b", "not in"),
    ast.NotIn: (r"\bnot\s+in\b", "in"),
}
"""The text of each comparison operator, and the operator in its place."""

NEGATABLE = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
"""For these operators, the swap is the negation."""

CONSTRUCTORS = {"replace", "timedelta"}
"""Functions that make a value of keyword arguments, besides the classes."""

FOR_TYPES = {"cast", "TypeVar", "isinstance", "issubclass"}
"""Functions whose arguments are types."""

UNSEEN_FUNCTIONS = {"__repr__", "__str__"}


@dataclass(frozen=True)
class Mutation:
    """A text in the place of another one."""

    kind: str
    place: tuple[int, int]
    """The first and the end offset of the syntax node. All mutations of a node share it, and so do
    the names that a call passes. Most mutants of these names raise an ``AttributeError``."""
    start: int
    end: int
    text: str
    """Replaces the source from ``start`` to ``end``, which lie inside the place."""


def mutated(source: str, mutation: Mutation) -> str | None:
    """Return the source with the mutation, or None if it does not compile or means the same."""
    changed = source[: mutation.start] + mutation.text + source[mutation.end :]
    try:
        tree = ast.parse(changed)
        compile(changed, "<mutant>", "exec", dont_inherit=True)
    except SyntaxError:
        return None
    return None if ast.dump(tree) == ast.dump(ast.parse(source)) else changed


def mutations(source: str) -> list[Mutation]:
    """Return all the mutations of the source, in its order, each once."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    unique = {(one.start, one.end, one.text): one for one in reversed(finder.found)}
    return sorted(unique.values(), key=lambda one: (one.place, one.start, one.end, one.text))


def _name(function: ast.expr) -> str:
    """Return the last part of a called name: ``replace`` for ``structs.replace``."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _binds(node: ast.AST) -> bool:
    """Tell if an expression assigns a name: without it, the name would be missing."""
    return any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


class _Finder(ast.NodeVisitor):
    """Collects the mutations of one source."""

    def __init__(self, source: str) -> None:
        self.found: list[Mutation] = []
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    # ---------- positions

    def _offset(self, line: int, column: int) -> int:
        """Return the offset of a position of the syntax tree, whose columns count bytes."""
        if line > len(self._lines):
            return self._starts[-1]
        before = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(before)

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        end_line, end_column = node.end_lineno, node.end_col_offset
        assert end_line is not None
        assert end_column is not None
        return self._offset(node.lineno, node.col_offset), self._offset(end_line, end_column)

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self._source[start:end]

    def _outer(self, node: ast.expr, within: ast.expr) -> tuple[int, int]:
        """Return the span of a node with its own parentheses."""
        (start, end), (first, last) = self._span(node), self._span(within)
        while True:
            before = self._source[first:start].rstrip()
            after = self._source[end:last]
            stripped = after.lstrip()
            if not (before.endswith("(") and stripped.startswith(")")):
                return start, end
            start = first + len(before) - 1
            end += len(after) - len(stripped) + 1

    def _add(
        self,
        kind: str,
        node: ast.expr | ast.stmt | ast.keyword,
        text: str,
        span: tuple[int, int] | None = None,
    ) -> None:
        """Add a mutation of the node: ``text`` in the place of the span, or of all of it."""
        start, end = span or self._span(node)
        self.found.append(Mutation(kind, self._span(node), start, end, text))

    def _swap(
        self,
        kind: str,
        node: ast.expr | ast.stmt,
        span: tuple[int, int],
        pattern: str,
        text: str,
    ) -> None:
        """Add a mutation that replaces the operators in a span; comments stay."""

        def swapped(found: re.Match[str]) -> str:
            return found[0] if found[0].startswith("#") else text

        start, end = span
        changed = re.sub(rf"#[^\n]*|{pattern}", swapped, self._source[start:end])
        self._add(kind, node, changed, span)

    # ---------- places without mutations

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """An f-string is a message."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Visit the body of a class, not its head."""
        self._visit_all(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit the defaults and the body of a function."""
        if node.name not in UNSEEN_FUNCTIONS:
            defaults = node.args.defaults + [d for d in node.args.kw_defaults if d is not None]
            self._visit_all((*defaults, *node.body))

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Visit the defaults and the body of a function."""
        defaults = node.args.defaults + [d for d in node.args.kw_defaults if d is not None]
        self._visit_all((*defaults, *node.body))

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    # ---------- statements

    def visit_Assign(self, node: ast.Assign) -> None:
        """Drop the assignment to an attribute."""
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        if any(isinstance(target, ast.Attribute) for target in node.targets):
            self._add("statement dropped", node, "pass")
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Drop the assignment to an attribute; its annotation is no place."""
        if node.value is not None:
            if isinstance(node.target, ast.Attribute):
                self._add("statement dropped", node, "pass")
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Drop the assignment to an attribute, and swap ``+=`` and ``-=``."""
        if isinstance(node.target, ast.Attribute):
            self._add("statement dropped", node, "pass")
        self._swap_sum(node, node.op, (self._span(node.target)[1], self._span(node.value)[0]))
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call or an await."""
        match node.value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr="debug")):
                return
            case ast.Call() | ast.Await():
                self._add("statement dropped", node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Drop the raise."""
        self._add("statement dropped", node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """Drop the jump."""
        self._add("statement dropped", node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        """Drop the jump."""
        self._add("statement dropped", node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        """Return None, unless that is as false as the value: True and False are swapped anyway."""
        if node.value is None:
            return
        if not (isinstance(node.value, ast.Constant) and not node.value.value):
            self._add("None returned", node, "return None")
        self.visit(node.value)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Raise the caught error again at once."""
        first, last = node.body[0], node.body[-1]
        self._add("error raised again", first, "raise", (self._span(first)[0], self._span(last)[1]))
        self._visit_all(node.body)

    # ---------- conditions

    def visit_If(self, node: ast.If) -> None:
        """Force or negate the condition."""
        if _name(node.test) != "TYPE_CHECKING":
            self._condition(node.test, forced=True)
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Force or negate the condition."""
        self._condition(node.test, forced=True)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        """Negate the condition. A forced one only hangs, or skips the loop."""
        if not isinstance(node.test, ast.Constant):
            self._condition(node.test, forced=False)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Force or negate the conditions."""
        for test in node.ifs:
            self._condition(test, forced=True)
        self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        """Force or negate the guard."""
        if node.guard is not None:
            self._condition(node.guard, forced=True)
        self.generic_visit(node)

    def _condition(self, test: ast.expr, *, forced: bool) -> None:
        text = self._text(test)
        if forced and _binds(test):
            self._add("condition forced", test, f"({text}) or True")
            self._add("condition forced", test, f"({text}) and False")
        elif forced:
            self._add("condition forced", test, "True")
            self._add("condition forced", test, "False")
        match test:
            case ast.UnaryOp(op=ast.Not()):
                pass  # its own visit removes the ``not``
            case ast.Compare(ops=[op]) if isinstance(op, NEGATABLE):
                pass  # the swap of its operator is the same
            case _:
                self._add("not added", test, f"not ({text})")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Remove a ``not``."""
        if isinstance(node.op, ast.Not):
            start, end = self._outer(node.operand, node)
            self._add("not removed", node, self._source[start:end])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Swap ``and`` and ``or``, and drop an operand."""
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        spans = [self._outer(value, node) for value in node.values]
        for (_, left), (right, _) in pairwise(spans):
            self._swap("and, or swapped", node, (left, right), rf"\b{old}\b", new)
        for i, value in enumerate(node.values):
            if _binds(value):
                continue
            start = spans[i - 1][1] if i else spans[0][0]
            end = spans[i][1] if i else spans[1][0]
            self._add("operand dropped", node, "", (start, end))
        self.generic_visit(node)

    # ---------- operators and values

    def visit_Compare(self, node: ast.Compare) -> None:
        """Swap the operators."""
        spans = [self._outer(value, node) for value in (node.left, *node.comparators)]
        for op, ((_, left), (right, _)) in zip(node.ops, pairwise(spans), strict=True):
            pattern, text = COMPARISONS[type(op)]
            self._swap("comparison swapped", node, (left, right), pattern, text)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Swap plus and minus."""
        if not _is_text(node.left) and not _is_text(node.right):
            gap = (self._outer(node.left, node)[1], self._outer(node.right, node)[0])
            self._swap_sum(node, node.op, gap)
        self.generic_visit(node)

    def _swap_sum(self, node: ast.expr | ast.stmt, op: ast.operator, span: tuple[int, int]) -> None:
        if isinstance(op, ast.Add):
            self._swap("plus, minus swapped", node, span, r"\+", "-")
        elif isinstance(op, ast.Sub):
            self._swap("plus, minus swapped", node, span, r"-", "+")

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number, and swap True and False."""
        if isinstance(node.value, bool):
            self._add("True, False swapped", node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._add("number changed", node, repr(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        """Swap min and max, drop keyword arguments, and pass None in the place of names."""
        name = _name(node.func)
        if name in FOR_TYPES:
            return
        if isinstance(node.func, ast.Name) and name in ("min", "max"):
            self._add("min, max swapped", node.func, "max" if name == "min" else "min")
        makes = name in CONSTRUCTORS or name[:1].isupper()
        for keyword in node.keywords:
            if makes and keyword.arg is not None:
                start, end = self._span(keyword)
                comma = re.match(r"\s*, *", self._source[end:])
                end += len(comma[0]) if comma else 0
                self._add("argument dropped", keyword, "", (start, end))
        for value in (*node.args, *(keyword.value for keyword in node.keywords if keyword.arg)):
            if isinstance(value, ast.Name) and value.id.islower() and value.id != "self":
                self._add("None passed", node, "None", self._span(value))
        self.generic_visit(node)
