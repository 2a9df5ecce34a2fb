"""Breaks one place of a module at a time and counts the breaks that its tests do not notice.

    python -m tests.mutation planning.constraints.limit_kinds --tests tests/planning tests/architectures --sample 50

Every mutant changes the code of one function in a process of its own, so nothing is written. It is killed if a test
fails or takes too long. A survivor is printed with its line: either a test is missing, or the two programs are equal.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import inspect
import io
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from types import CodeType, FunctionType, ModuleType

import pytest

SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The node with one thing changed, each way that we know."""
    if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp):
        changed = copy.deepcopy(node)
        first = changed.ops[0] if isinstance(node, ast.Compare) else changed.op
        if type(first) in SWAPS:
            swapped = SWAPS[type(first)]()
            if isinstance(node, ast.Compare):
                changed.ops[0] = swapped
            else:
                changed.op = swapped
            yield changed
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        changed = copy.deepcopy(node)
        changed.test = ast.UnaryOp(ast.Not(), changed.test)
        yield changed
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


class Replace(ast.NodeTransformer):
    def __init__(self, number: int, new: ast.AST) -> None:
        self.number, self.new, self.at = number, new, -1

    def visit(self, node: ast.AST) -> ast.AST:
        self.at += 1
        if self.at == self.number:
            return ast.copy_location(self.new, node)
        return super().generic_visit(node)


class Walk(ast.NodeVisitor):
    """The nodes in the order in which `Replace` counts them."""

    def __init__(self) -> None:
        self.nodes: list[ast.AST] = []

    def visit(self, node: ast.AST) -> None:
        self.nodes.append(node)
        super().generic_visit(node)


def mutants(tree: ast.Module) -> Iterator[tuple[int, ast.AST, ast.AST]]:
    """The number of a node inside a function, the node, and what stands in its place."""
    walk = Walk()
    walk.visit(tree)
    inside = {id(node) for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) for body in each.body
              for node in ast.walk(body)}  # fmt: skip
    for number, node in enumerate(walk.nodes):
        if id(node) in inside:
            yield from ((number, node, new) for new in changes(node))


def codes(code: CodeType) -> dict[str, CodeType]:
    """The functions of a module and of its classes, by name."""
    found = {}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found[each.co_qualname] = each
            found |= codes(each)
    return found


def functions(module: ModuleType) -> Iterator[FunctionType]:
    owners = [module, *(each for each in vars(module).values() if inspect.isclass(each))]
    for owner in owners:
        for each in vars(owner).values():
            inner = inspect.unwrap(getattr(each, "fget", None) or getattr(each, "__func__", each))
            if isinstance(inner, FunctionType) and inner.__module__ == module.__name__:
                yield inner


def put(module: ModuleType, tree: ast.Module) -> None:
    """Give the functions of `module` the code of `tree`; their names stay those that others have imported."""
    new = codes(compile(ast.fix_missing_locations(tree), module.__file__, "exec"))
    for function in functions(module):
        code = new.get(function.__code__.co_qualname)
        if code and code.co_freevars == function.__code__.co_freevars:
            function.__code__ = code


def is_killed(module: ModuleType, tree: ast.Module, tests: list[str], seconds: int) -> bool:
    """Whether the tests fail in a process with this mutant."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            put(module, tree)
            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not oracle", *tests])
        os._exit(int(status != 0))
    end = time.monotonic() + 10 * seconds
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    return done[1] != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", help="without `rewriter.`")
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, chosen at random; 0 for all")
    parser.add_argument("--seconds", type=int, default=60, help="of the processor, for the tests of one mutant")
    asked = parser.parse_args()
    module = importlib.import_module(f"rewriter.{asked.module}")
    source = inspect.getsource(module)
    with redirect_stdout(io.StringIO()):
        good = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not oracle", *asked.tests])
    assert good == 0, "the tests fail without a mutant"
    all_of_them = list(mutants(ast.parse(source)))
    chosen = random.Random(0).sample(all_of_them, min(asked.sample or len(all_of_them), len(all_of_them)))
    killed = 0
    for number, old, new in sorted(chosen, key=lambda each: each[0]):
        if is_killed(module, Replace(number, new).visit(ast.parse(source)), asked.tests, asked.seconds):
            killed += 1
        else:
            before, after = (ast.unparse(each).splitlines()[0] for each in (old, new))
            print(f"{asked.module}:{old.lineno}: {before}  ->  {after}", flush=True)
    survived = len(chosen) - killed
    print(f"{asked.module}: {len(all_of_them)} mutants, {len(chosen)} tried, {killed} killed, {survived} survived")


main()
