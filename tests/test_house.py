"""The house rules: imports point downwards, folders, modules and functions stay small, every module has its tests."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The rooms of each package, folders and modules, from the ground up: a room imports from those before it, and any stage
# imports `schemas`. A room that is not here has no place in the house yet.
ROOMS = {
    "schemas": "text process errors typed_json drops console settings command_line version files stores locks "
    "hub stored record layout manifest provenance engines chat dataset_files",
    "pipeline": "config progress input formats tokens resolved_sources resolved_run output dataflow chain workers "
    "transforms build worker_process lost_workers runner run commands __init__ __main__",
    "train": "config parallel attention model loss data weights checkpoint step generation monitor prepare planning "
    "run_lock run_folder session loop trainer commands __init__ __main__",
}
MAX_MODULES_IN_FOLDER = 15
MAX_LINES_OF_MODULE = 350
MAX_LINES_OF_FUNCTION = 80
MAX_LINES_OF_TRAIN = 40
# The command lines are tested as a user meets them.
TESTED_ELSEWHERE = {
    "pipeline/__main__.py": "tests/pipeline/test_command_line.py",
    "train/__main__.py": "tests/train/test_command_line.py",
}


def modules(root: Path) -> list[Path]:
    return sorted(path for package in ROOMS for path in (root / package).rglob("*.py"))


def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def imported_names(module: Path) -> Iterator[str]:
    """The dotted names that a module imports, anywhere in it: of `from a import b` both could be meant."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions_in(module: Path) -> Iterator[tuple[str, int]]:
    """The name of each function of a module, and how many lines it has."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1  # type: ignore[operator]


def wrong_imports(root: Path) -> Iterator[str]:
    """The imports that point upwards, to the other stage, or past the import name; and rooms without a place."""
    for module in modules(root):
        package, *rest = module.relative_to(root).with_suffix("").parts
        order = ROOMS[package].split()
        room = rest[0]
        if rest == ["__init__"]:
            room = "__init__"
        if room not in order and not (package == "schemas" and room == "__init__"):
            yield f"{package}/{room} has no place in the order of rooms"
            continue
        for name in imported_names(module):
            top, _, path = name.partition(".")
            if top in ROOMS:
                yield f"{module.relative_to(root)} imports {name}, which is no name of the package: oddsmill.{name}"
            if top != "oddsmill":
                continue
            other, *parts = path.split(".")
            if other not in (package, "schemas"):
                yield f"{module.relative_to(root)} imports {name}, which is no part of its stage"
            elif other == package and parts and parts[0] in order and order.index(parts[0]) > order.index(room):
                yield f"{module.relative_to(root)} imports {name} from a room above its own"


def large_parts(root: Path) -> Iterator[str]:
    """The folders, modules and functions that are too large."""
    sizes = Counter(module.parent for module in modules(root) if module.name != "__init__.py")
    for folder, count in sizes.items():
        if count > MAX_MODULES_IN_FOLDER:
            yield f"{folder.relative_to(root)} has {count} modules"
    for module in modules(root):
        lines = len(module.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES_OF_MODULE:
            yield f"{module.relative_to(root)} has {lines} lines"
        for name, count in functions_in(module):
            if count > MAX_LINES_OF_FUNCTION:
                yield f"{module.relative_to(root)}: {name} has {count} lines"


def untested_modules(root: Path) -> Iterator[str]:
    """The modules that have no test module at the same place in tests/."""
    for module in modules(root):
        name = str(module.relative_to(root))
        test = TESTED_ELSEWHERE.get(name, f"tests/{Path(name).with_name('test_' + module.name)}")
        if module.name != "__init__.py" and not (root / test).is_file():
            yield f"{name} has no {test}"


def test_imports_point_downwards():
    assert not list(wrong_imports(ROOT))


def test_folders_modules_and_functions_are_small():
    assert not list(large_parts(ROOT))


def test_the_whole_run_is_on_one_screen():
    sizes = dict(functions_in(ROOT / "train" / "loop.py"))
    assert sizes["train"] <= MAX_LINES_OF_TRAIN


def test_every_module_has_a_test_module():
    assert not list(untested_modules(ROOT))


@pytest.mark.parametrize("folder", ["tests", "bench", "docs", "recipes", "flex_template", "oddsmill"])
def test_nothing_imports_a_stage_past_the_import_name(folder: str):
    files = [path for path in (ROOT / folder).rglob("*.py") if not path.is_symlink()]
    assert files
    wrong = {str(path): name for path in files for name in imported_names(path) if name.split(".")[0] in ROOMS}
    assert not wrong


def test_a_broken_rule_is_seen(tmp_path: Path):
    def write(name: str, text: str = "") -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("schemas/record.py", "import numpy\nfrom oddsmill.schemas import errors\n")
    write(
        "train/loss/orpo.py", "from oddsmill.schemas.record import Row\nfrom oddsmill.train.config.loss import Loss\n"
    )
    for name in ("schemas/test_record.py", "train/loss/test_orpo.py"):
        write(f"tests/{name}")
    assert not [*wrong_imports(tmp_path), *large_parts(tmp_path), *untested_modules(tmp_path)]
    write("schemas/errors.py", "def late():\n    from oddsmill.schemas.record import Row\n")
    write("train/model/rope.py", "import oddsmill.train.loop\nimport oddsmill.pipeline.config\n")
    write("train/model/lora.py", "from schemas.record import Row\nfrom oddsmill.train import commands\n")
    write("pipeline/rooms.py")
    assert len(list(wrong_imports(tmp_path))) == 6
    write("pipeline/build.py", "\n" * 351)
    write("pipeline/run.py", "async def f():\n" + "    ...\n" * 80)
    for number in range(16):
        write(f"pipeline/formats/format_{number}.py")
    assert len(list(large_parts(tmp_path))) == 3
    assert "pipeline/run.py has no tests/pipeline/test_run.py" in set(untested_modules(tmp_path))
