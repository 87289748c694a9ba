"""Who may know what: the network and its training never learn which modality they see."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import unireplknet
from unireplknet.modalities import MODALITIES as REGISTERED

ROOT = Path(unireplknet.__file__).parent
MODALITIES = {
    kind.__module__.rpartition(".")[2]
    for kinds in REGISTERED.values()
    for kind in kinds
    if kind.__module__.startswith("unireplknet.modalities.")
}
ALLOWED = ("modalities", "recipes", "fetch", "tasks")


def classes_of_modalities() -> set[str]:
    """Names of the classes and functions that the modules of modalities define."""
    return {
        node.name
        for name in MODALITIES
        for node in ast.parse((ROOT / "modalities" / f"{name}.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


def imports_of_a_modality(code: str) -> Iterator[str]:
    """The imports in a module of the package that name a modality, or what is defined for one."""
    package, names = "unireplknet.modalities", classes_of_modalities()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.removeprefix(f"{package}.").split(".")[0] in MODALITIES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == package:
                yield from (a.name for a in node.names if a.name in MODALITIES | names)
            elif node.module.removeprefix(f"{package}.").split(".")[0] in MODALITIES:
                yield node.module


@pytest.mark.parametrize(
    "code",
    [
        "import unireplknet.modalities.image",
        "from unireplknet.modalities.video import anything",
        "from unireplknet.modalities import image",
        "from unireplknet.modalities import ImageInput",
        "def f():\n    from unireplknet.modalities.image import ImageInput",
    ],
)
def test_the_check_sees_every_form(code: str) -> None:
    assert list(imports_of_a_modality(code))


@pytest.mark.parametrize(
    "code", ["from unireplknet.modalities import MODALITIES", "from unireplknet.data.split import Split"]
)
def test_the_check_lets_the_registry_pass(code: str) -> None:
    assert not list(imports_of_a_modality(code))


def test_only_modalities_tasks_recipes_and_fetch_import_a_modality_by_name() -> None:
    assert {"image", "video"} <= MODALITIES
    found = {
        str(path.relative_to(ROOT)): names
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in ALLOWED
        and (names := list(imports_of_a_modality(path.read_text(encoding="utf-8"))))
    }
    assert not found


def imported_parts(code: str) -> Iterator[str]:
    """The parts of the package that a module imports, wherever in it: "files" of ``unireplknet.files``."""
    for node in ast.walk(ast.parse(code)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "unireplknet":
            modules = [f"unireplknet.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules = [node.module]
        yield from (name.split(".")[1] for name in modules if name.startswith("unireplknet."))


def test_data_sets_know_neither_modalities_nor_tasks_nor_training() -> None:
    files = sorted((ROOT / "data").rglob("*.py"))
    assert {"split.py", "reading.py"} <= {path.name for path in files}
    found = {part for path in files for part in imported_parts(path.read_text(encoding="utf-8"))}
    assert found <= {"data", "errors", "files", "randomness", "registry"}


@pytest.mark.parametrize(
    "code",
    [
        "import unireplknet.modalities.image",
        "from unireplknet import modalities",
        "from unireplknet.modalities import image",
        "def f():\n    from unireplknet.modalities.image import ImageInput",
    ],
)
def test_the_check_of_parts_sees_every_form(code: str) -> None:
    assert set(imported_parts(code)) == {"modalities"}


def test_the_examples_are_found_through_the_registry_alone() -> None:
    assert "unireplknet_examples" in ROOT.parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert not [path for path in ROOT.rglob("*.py") if "unireplknet_examples" in path.read_text(encoding="utf-8")]
