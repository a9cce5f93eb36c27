"""Docstrings say what is true of the signatures beside them; ruff sees to it that they are there."""

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator

import pytest

import distmc
from distmc import errors

PACKAGE = pathlib.Path(distmc.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
COLLECTIVES = {"all_gather", "all_to_all", "pmax", "pmean", "pmin", "ppermute", "psum", "psum_scatter", "pshuffle"}
COMMUNICATE = (
    "parallel.logdensity.ShardedLogDensity.logdensity",
    "parallel.logdensity.ShardedLogDensity.logdensity_and_grad",
    "sampling.program.Program.start",
    "sampling.program.Program.advance",
    "sampling.worker.Worker",
)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef


def name_of(module: pathlib.Path) -> str:
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


modules = pytest.mark.parametrize("module", MODULES, ids=name_of)


def public(module: pathlib.Path) -> Iterator[tuple[str, Documented]]:
    """Yield the public functions, classes and methods of a module with their dotted names."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, Documented]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Documented) and not child.name.startswith("_"):
                yield f"{prefix}.{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from below(child, f"{prefix}.{child.name}")

    yield from below(ast.parse(module.read_text(encoding="utf-8")), name_of(module))


def section(node: Documented, title: str) -> str | None:
    """Return the text of a section of a docstring, or None where there is none."""
    match = re.search(
        rf"^{title}\n-{{{len(title)}}}\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)",
        ast.get_docstring(node) or "",
        re.MULTILINE | re.DOTALL,
    )
    return None if match is None else match[1]


def entries(text: str) -> list[str]:
    """Return the names that a section explains: `a, b : type` are two."""
    heads = re.findall(r"^(?=\S)(.*?)(?: : .*)?$", text, re.MULTILINE)
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def parameters(node: Function) -> list[str]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [argument.arg for argument in named if argument is not None and argument.arg not in ("self", "cls")]


@modules
def test_documented_parameters_exist(module: pathlib.Path) -> None:
    wrong = {}
    for name, node in public(module):
        explained = section(node, "Parameters")
        if explained is None:
            continue
        makers = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        owner = node if isinstance(node, Function) else next(iter(makers), None)
        if owner is None or not set(entries(explained)) <= set(parameters(owner)):
            wrong[name] = entries(explained)
    assert wrong == {}


@modules
def test_attributes_of_frozen_values_are_explained(module: pathlib.Path) -> None:
    wrong = {}
    for name, node in public(module):
        if not isinstance(node, ast.ClassDef):
            continue
        fields = [
            child.target.id
            for child in node.body
            if isinstance(child, ast.AnnAssign)
            and isinstance(child.target, ast.Name)
            and not child.target.id.startswith("_")
            and "ClassVar" not in ast.unparse(child.annotation)
        ]
        explained = section(node, "Attributes")
        if explained is not None and fields and not set(fields) <= set(entries(explained)):
            wrong[name] = sorted(set(fields) - set(entries(explained)))
    assert wrong == {}


@modules
def test_errors_that_are_raised_are_told(module: pathlib.Path) -> None:
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}
    wrong = {}
    for name, node in public(module):
        if not isinstance(node, Function):
            continue
        raised = {
            child.exc.func.id
            for child in ast.walk(node)
            if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and isinstance(child.exc.func, ast.Name)
        }
        text = ast.get_docstring(node) or ""
        # A check whose one sentence says what it refuses needs no section that says so again.
        untold = {error for error in raised & ours if error not in text and not re.search(r"\b[Rr]efuse", text)}
        if untold:
            wrong[name] = sorted(untold)
    assert wrong == {}


@pytest.mark.parametrize("name", [name for name in distmc.__all__ if name != "errors"])
def test_the_public_face_explains_every_argument(name: str) -> None:
    value = getattr(distmc, name)
    text = inspect.getdoc(value) or ""
    missing = [argument for argument in inspect.signature(value).parameters if not re.search(rf"\b{argument}\b", text)]
    assert missing == [], f"`{name}` does not explain {missing}"


def test_what_communicates_says_so_and_what_it_leaves_unchanged() -> None:
    documented, communicating = {}, set(COMMUNICATE)
    for module in MODULES:
        if name_of(module).split(".")[0] not in ("parallel", "sampling"):
            continue
        for name, node in public(module):
            documented[name] = section(node, "Notes") or ""
            called = {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}
            if called & COLLECTIVES and name.count(".") == 2:
                communicating.add(name)
    assert communicating <= set(documented)
    silent = {
        name for name in communicating for word in ("Communication:", "Invariance:") if word not in documented[name]
    }
    assert silent == set()
