"""What the source may hold where: imports, private names, collectives, length."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

import distmc

PACKAGE = pathlib.Path(distmc.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400
COLLECTIVES = {"all_gather", "all_to_all", "axis_index", "pmax", "pmean", "pmin", "ppermute", "psum", "psum_scatter"}
PRIVATE = ("jax._src", "jaxlib._jax")


def path_of(module: pathlib.Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


modules = pytest.mark.parametrize("module", MODULES, ids=path_of)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports, at the top or inside a function, checked types left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in ast.walk(node):
                child._is_for_annotations = True  # type: ignore[attr-defined]
        elif getattr(node, "_is_for_annotations", False):
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_names(tree: ast.AST) -> set[str]:
    """Return the private names of JAX that a module imports or writes as text, as `import_module` needs it."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for name in {*imported(tree), *texts} if name.startswith(PRIVATE)}


def collectives(tree: ast.AST) -> set[str]:
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return (attributes | {name.rpartition(".")[2] for name in imported(tree)}) & COLLECTIVES


def room_of(module: pathlib.Path) -> str:
    return path_of(module).partition("/")[0]


@modules
def test_modules_are_short(module: pathlib.Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@modules
def test_names_stay_in_their_rooms(module: pathlib.Path) -> None:
    tree, path = ast.parse(module.read_text(encoding="utf-8")), path_of(module)
    packages = {name.partition(".")[0] for name in imported(tree)}
    assert "ray" not in packages or path.startswith("orchestration/ray")
    assert not packages & {"netCDF4", "xarray"} or room_of(module) in ("storage", "diagnostics")
    assert not private_names(tree) or path == "parallel/processes.py"
    assert not collectives(tree) or room_of(module) == "parallel"


def test_the_rules_see_what_they_forbid() -> None:
    tree = ast.parse(
        "import ray\n"
        "def late():\n    from xarray import DataTree\n    from jax.lax import psum\n"
        "name = 'jax._src.distributed'\n"
        "if TYPE_CHECKING:\n    import netCDF4\n"
    )
    assert set(imported(tree)) == {"ray", "xarray.DataTree", "jax.lax.psum"}
    assert private_names(tree) == {"jax._src.distributed"}
    assert collectives(tree) == {"psum"}
    assert collectives(ast.parse("total = lax.ppermute(a, 'x', b)")) == {"ppermute"}
