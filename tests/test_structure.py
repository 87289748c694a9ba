"""Who may know what: the engine never learns which task is learned, nor which modality it sees."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import unireplknet
from unireplknet import registry
from unireplknet.registry import MODALITIES, RECIPES, SOURCES, TASKS, VIEWS, Registry
from unireplknet.tasks.base import Task

ROOT = Path(unireplknet.__file__).parent

MODULES = {
    modality: MODALITIES[modality].input.__module__.removeprefix("unireplknet.modalities.") for modality in MODALITIES
}
"""By modality: its module."""

FOLDERS = {task: TASKS[task].__module__.split(".")[2] for task in TASKS}
"""By task: its folder."""

KNOW_MODALITIES = ("modalities", "tasks", "recipes", "registry.py", "data")
"""Folders and files that may name one; tasks read more of a sample than its map."""

KNOW_TASKS = ("tasks", "recipes", "registry.py")

EXCEPTIONS = {
    "demo.py": "shows classification, and will leave the package",
    "extras.py": "names extras, some of which are called as a modality",
}


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings in a module that are not documentation."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented)]
    docs = {id(s.value) for body in bodies for s in body if isinstance(s, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a module imports, and "module.name" of what it imports from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def knows(code: str, names: dict[str, str], package: str) -> list[str]:
    """Which of some things a module names, or imports from their modules in a package."""
    tree = ast.parse(code)
    named = [text for text in texts(tree) if text in names]
    places = tuple(f"{package}.{module}." for module in names.values())
    return named + [name for name in imports(tree) if f"{name}.".startswith(places)]


def tell(allowed: tuple[str, ...], names: dict[str, str], package: str) -> dict[str, list[str]]:
    """By file: what it should not know."""
    found = {
        str(path.relative_to(ROOT)): known
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in allowed
        and (known := knows(path.read_text(encoding="utf-8"), names, package))
    }
    return {path: known for path, known in found.items() if path not in EXCEPTIONS}


@pytest.mark.parametrize(
    "code",
    [
        "import unireplknet.modalities.image",
        "from unireplknet.modalities.video import anything",
        "from unireplknet.modalities import image",
        "def f():\n    from unireplknet.modalities.image import ImageInput",
        "if modality == 'audio':\n    pass",
    ],
)
def test_the_check_sees_modalities(code: str) -> None:
    assert knows(code, MODULES, "unireplknet.modalities")


@pytest.mark.parametrize(
    "code",
    [
        "from unireplknet.tasks.segment.network import Segmenter",
        "def f():\n    from unireplknet.tasks import detect",
        "x = {'forecasting': 1}",
        "task == 'detection'",
    ],
)
def test_the_check_sees_tasks(code: str) -> None:
    assert knows(code, FOLDERS, "unireplknet.tasks")


@pytest.mark.parametrize(
    "code",
    [
        '"""An image, for detection."""',
        "from unireplknet.registry import MODALITIES",
        "from unireplknet.tasks.base import Task",
        "from unireplknet.modalities.base import Input",
    ],
)
def test_the_check_lets_the_registry_pass(code: str) -> None:
    assert not knows(code, MODULES, "unireplknet.modalities")
    assert not knows(code, FOLDERS, "unireplknet.tasks")


def test_nothing_else_knows_a_modality() -> None:
    assert {"image", "video"} <= MODULES.keys()
    assert not tell(KNOW_MODALITIES, MODULES, "unireplknet.modalities")


def test_nothing_else_knows_a_task() -> None:
    assert FOLDERS["classification"] == "classify"
    assert not tell(KNOW_TASKS, FOLDERS, "unireplknet.tasks")


def test_exceptions_are_needed() -> None:
    for path in EXCEPTIONS:
        code = (ROOT / path).read_text(encoding="utf-8")
        assert knows(code, MODULES, "unireplknet.modalities") + knows(code, FOLDERS, "unireplknet.tasks"), path


def test_tasks_import_nothing_of_each_other() -> None:
    for task, folder in FOLDERS.items():
        others = tuple(f"unireplknet.tasks.{other}." for name, other in FOLDERS.items() if name != task)
        for path in (ROOT / "tasks" / folder).glob("*.py"):
            found = imports(ast.parse(path.read_text(encoding="utf-8")))
            assert not [name for name in found if f"{name}.".startswith(others)], path


@pytest.mark.parametrize("name", [name for name, value in vars(registry).items() if isinstance(value, Registry)])
def test_everything_registered_can_be_imported(name: str) -> None:
    registered = getattr(registry, name)
    assert all(registered[entry] is not None for entry in registered)


def test_what_is_registered_has_its_name() -> None:
    assert {name: kind.name for name, kind in TASKS.items()} == {name: name for name in TASKS}
    assert {name: make().name for name, make in RECIPES.items()} == {name: name for name in RECIPES}
    assert all(issubclass(kind, Task) for kind in TASKS.values())
    assert all(callable(source) for source in (*SOURCES.values(), *VIEWS.values()))


def test_every_recipe_is_registered() -> None:
    modules = [path.stem for path in (ROOT / "recipes").glob("*.py") if path.stem != "__init__"]
    written = {
        name
        for module in modules
        for name, value in vars(import_module(f"unireplknet.recipes.{module}")).items()
        if getattr(value, "__module__", "").endswith(f"recipes.{module}")
        and name[0] != "_"
        and value.__annotations__.get("return") == "Recipe"
    }
    assert written <= set(RECIPES)


def test_data_sets_know_neither_modalities_nor_tasks_nor_training() -> None:
    files = sorted((ROOT / "data").rglob("*.py"))
    assert {"split.py", "reading.py"} <= {path.name for path in files}
    found = {name for path in files for name in imports(ast.parse(path.read_text(encoding="utf-8")))}
    parts = {name.split(".")[1] for name in found if name.startswith("unireplknet.")}
    assert parts <= {"data", "errors", "files", "randomness", "registry"}


def test_the_examples_are_found_through_the_registry_alone() -> None:
    assert "unireplknet_examples" in ROOT.parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert not [path for path in ROOT.rglob("*.py") if "unireplknet_examples" in path.read_text(encoding="utf-8")]


def test_no_test_module_imports_another() -> None:
    tests = Path(__file__).parent
    files = sorted(tests.rglob("*.py"))
    modules = {".".join(path.relative_to(tests.parent).with_suffix("").parts) for path in tests.rglob("test_*.py")}
    assert "tests.test_structure" in modules
    for path in files:
        found = imports(ast.parse(path.read_text(encoding="utf-8")))
        assert not [name for name in found if name.rpartition(".")[0] in modules or name in modules], path
