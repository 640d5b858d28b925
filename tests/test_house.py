"""The rules of the house that no linter knows."""

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest

import kdengine

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file.relative_to(ROOT)
    for pattern in (
        "kdengine/**/*.py",
        "plugins/*/src/**/*.py",
        "zoo/src/**/*.py",
        "benchmarks/**/*.py",
        "docs/kdengine_docs/*.py",
        ".ci/kdengine_release/*.py",
    )
    for file in ROOT.glob(pattern)
)
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(file):
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def statements(function):
    """Lines of a function from its first statement to its last, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def pokes(node):
    """Assignments to a private attribute of an object other than ``self`` or ``cls``."""
    for assignment in ast.walk(node):
        targets = getattr(assignment, "targets", None) or [getattr(assignment, "target", None)]
        if not isinstance(assignment, ast.Assign | ast.AugAssign | ast.AnnAssign):
            continue
        for target in (part for each in targets for part in ast.walk(each)):
            if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store) and target.attr.startswith("_"):
                if target.attr.endswith("__"):
                    continue
                owner = target.value
                if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                    yield f"line {target.lineno}: {ast.unparse(target)}"


def test_the_rules_can_fail():
    assert list(pokes(ast.parse("engine._resumed = True"))) == ["line 1: engine._resumed"]
    assert list(pokes(ast.parse("a, self.engine._x[0].y, b._z = 1, 2, 3"))) == ["line 1: b._z"]
    assert list(pokes(ast.parse("self._mine = engine._theirs"))) == []


@pytest.mark.parametrize("rule", ["private", "new"])
def test_nobody_reaches_into_another_object(rule):
    found = {}
    for file in FILES:
        if rule == "private":
            found[str(file)] = list(pokes(tree(file)))
        else:
            calls = (node for node in ast.walk(tree(file)) if isinstance(node, ast.Call))
            found[str(file)] = [ast.unparse(call) for call in calls if ast.unparse(call.func).endswith(".__new__")]
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_no_file_is_longer_than_300_lines_and_no_function_than_40():
    files = {str(file): len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: length for file, length in files.items() if length > 300} == {}
    functions = {
        f"{file}:{node.name}": statements(node)
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, FUNCTIONS)
    }
    assert {name: length for name, length in functions.items() if length > 40} == {}


def test_no_public_constructor_takes_more_than_eight_arguments_by_position():
    kinds = [kind for name in kdengine.__all__ if isinstance(kind := getattr(kdengine, name), type)]
    many = {}
    for kind in (kind for kind in kinds if not issubclass(kind, Exception)):
        parameters = inspect.signature(kind).parameters.values()
        many[kind.__name__] = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    assert {name: count for name, count in many.items() if count > 8} == {}
    assert len(many) > 20
