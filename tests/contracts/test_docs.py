"""What the documents say is true of the code: blocks run, links lead somewhere, names exist."""

import contextlib
import functools
import importlib
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from distmc.cli import cli
from distmc.orchestration.states import State

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cluster/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
)
PAGES_THAT_COMPUTE_FOR_LONG = ("README.md",)
"""The others take longer to compile."""
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\[]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FOLDERS = ("distmc", "docs", "tests", "benchmarks", "cluster", "examples")


def name_of(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def blocks(page: pathlib.Path, language: str) -> Iterator[tuple[str, str, int]]:
    """Yield the rest of the info string, the text, and the number of its first line of each block in `language`."""
    content = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(content):
        kind, _, rest = fence["info"].strip().partition(" ")
        if kind == language:
            yield rest, fence["text"], content[: fence.start("text")].count("\n")


def prose(page: pathlib.Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: pathlib.Path) -> Iterator[str]:
    """Yield what a page tells to type: lines of shell blocks, and code in the text."""
    for _, text, _ in blocks(page, "bash"):
        yield from (line.partition(" #")[0].strip() for line in text.splitlines())
    yield from CODE.findall(prose(page))


# Python blocks --------------------------------------------------------------------------------------------------------


def has_python(page: pathlib.Path) -> bool:
    return any(True for _ in blocks(page, "python"))


@pytest.fixture
def in_empty_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("page", [page for page in PAGES if has_python(page)], ids=name_of)
def test_python_blocks_run_as_one_script(
    page: pathlib.Path,
    in_empty_directory: pathlib.Path,
    optimising: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    variables: dict[str, Any] = {"__name__": "page"}
    with optimising() if name_of(page) in PAGES_THAT_COMPUTE_FOR_LONG else contextlib.nullcontext():
        for rest, text, line in blocks(page, "python"):
            if rest.startswith("file="):
                (in_empty_directory / rest.removeprefix("file=")).write_text(text, encoding="utf-8")
                continue
            # Empty lines in front make tracebacks name the line of the page.
            exec(compile("\n" * line + text, str(page), "exec"), variables)


def test_there_are_python_blocks_to_run() -> None:
    assert {"README.md", "docs/tutorials/first-run.md"} <= {name_of(page) for page in PAGES if has_python(page)}


# Links and names ------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pages
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    broken = []
    for link in LINK.finditer(prose(page)):
        target = link["target"]
        if "://" in target:
            continue
        path, _, wanted = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_file():
            broken.append(target)
        elif wanted:
            headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            if wanted not in map(anchor, headings):
                broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (link["target"].partition("#")[0] for link in LINK.finditer(prose(page)) if ":" not in link["target"])
        waiting += [(page.parent / target).resolve() for target in targets if target]
    documents = {page for page in PAGES if name_of(page).startswith("docs/")}
    assert {name_of(page) for page in documents - reached} == set()


@pages
def test_files_that_are_named_exist(page: pathlib.Path) -> None:
    named = {code for code in CODE.findall(prose(page)) if re.fullmatch(rf"({'|'.join(FOLDERS)})(/[\w.*-]+)+/?", code)}
    assert {code for code in named if not list(ROOT.glob(code.rstrip("/")))} == set()


@functools.cache
def exists(name: str) -> bool:
    """Say whether a dotted name is a module of distmc or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[count:])
    return False


@pages
def test_python_names_exist(page: pathlib.Path) -> None:
    # In code of the text a name may be followed by a call.
    names = {
        name
        for code in CODE.findall(prose(page))
        for name in re.findall(r"(?<![\w./-])distmc(?:\.[A-Za-z_]\w*)+", code)
        if not code.startswith(("distmc/", "pip"))
    }
    assert {name for name in names if not exists(name)} == set()


# Commands -------------------------------------------------------------------------------------------------------------


def options_of(command: click.Command) -> set[str]:
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts) if name[0] == "-"}


@pages
def test_commands_of_distmc_exist(page: pathlib.Path) -> None:
    wrong = []
    for line in commands(page):
        call = re.search(r"(?:^|-- |/)distmc ((?:--)?[a-z]+)(.*)", line)
        if call is None:
            continue
        name, rest = call.groups()
        if name in ("--help", "--version"):
            continue
        known = options_of(cli.commands[name]) | {"--help"} if name in cli.commands else set()
        if not known or not set(re.findall(r"(?<!\S)--[\w-]+", rest)) <= known:
            wrong.append(line)
    assert wrong == []


def test_every_command_and_option_is_described() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## distmc (\w+)$(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    assert set(parts) == set(cli.commands)
    for name, command in cli.commands.items():
        described = set(re.findall(r"`(--[\w-]+)", parts[name]))
        assert described == options_of(command), name


def test_defaults_are_those_of_the_commands() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    for name in ("sample", "demo"):
        part = page.partition(f"## distmc {name}\n")[2].partition("\n## ")[0]
        for row in re.findall(r"^\| (`--.*?) \| (.*?) \|", part, re.MULTILINE):
            written = dict(zip(re.findall(r"`(--[\w-]+)", row[0]), row[1].split(", "), strict=False))
            for option in cli.commands[name].params:
                if option.opts[0] in written and type(option.default) in (int, float):
                    assert written[option.opts[0]] == str(option.default), option.opts[0]


@pages
def test_targets_of_make_exist(page: pathlib.Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for line in commands(page) for target in re.findall(r"^make ([a-z]+)\b", line)}
    assert named <= targets


def test_rooms_are_in_the_order_that_is_enforced() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    enforced = [layer.replace("distmc.", "") for layer in layers[0]]
    assert enforced in [text.splitlines() for _, text, _ in blocks(ROOT / "docs/explanation/architecture.md", "")]


# Pictures -------------------------------------------------------------------------------------------------------------


def drawn_by(script: pathlib.Path) -> dict[str, Any]:
    """Return what a script that draws a picture defines."""
    variables: dict[str, Any] = {"__name__": script.stem, "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), variables)
    return variables


@pytest.mark.parametrize("name", ["tree", "states"])
def test_drawn_picture_is_that_of_its_script(name: str) -> None:
    script = ROOT / f"docs/images/draw_{name}.py"
    assert drawn_by(script)["draw"]() == script.with_name(f"{name}.svg").read_text(encoding="utf-8")


def test_every_state_of_the_controller_is_in_the_picture() -> None:
    drawn = drawn_by(ROOT / "docs/images/draw_states.py")
    assert set(drawn["PLACES"]) == set(State)
    # Every state but the first follows another, and every state but the last ones leads to another.
    assert {after for _, after in drawn["FOLLOWS"]} == set(State) - {State.PENDING}
    assert {before for before, _ in drawn["FOLLOWS"]} == set(State) - drawn["NEVER_LEFT"]
