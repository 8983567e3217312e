"""Everything that the pages name exists: files, functions, commands, settings; the README's map names every folder."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from oddsmill.__main__ import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*/README.md")]
FOLDERS = "schemas|pipeline|train|tests|docs|bench|recipes|flex_template|oddsmill"
# A path in code; `path/file.py:name` is a function, class or constant of that file. Globs may stand in it.
NAMED = re.compile(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.*-]*\w[\w/.*-]*)(?::(\w+))?")
# What a reader would make.
PLACEHOLDERS = re.compile(r"recipes/mine/")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_in(page: Path) -> str:
    """The code of a page, in blocks and in lines; a block of output, `text`, is not code."""
    text = re.sub(r"```text\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL))


@cache
def names_in(module: Path) -> set[str]:
    """The names that a module's own lines define."""
    names = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def missing_names(code: str) -> list[str]:
    """The paths in some code at which there is nothing, and the names that their file does not define."""
    missing = []
    for match in NAMED.finditer(code):
        path, name = match[1].rstrip("."), match[2]
        if PLACEHOLDERS.match(path) or (any(file.exists() for file in ROOT.glob(path)) and not name):
            continue
        if not (name and (ROOT / path).is_file() and name in names_in(ROOT / path)):
            missing.append(match[0])
    return missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_file_and_function_that_a_page_names_exists(page: Path):
    assert not missing_names(code_in(page))


def test_a_missing_name_is_seen():
    code = "schemas/record.py schemas/record.py:Row tests/train/test_golden_*.py schemas/ docs/howto"
    assert missing_names(code) == []
    code = "schemas/records.py schemas/record.py:Rows pipeline/nothing/ `train/trainer.py:Trainr`"
    assert missing_names(code) == [
        "schemas/records.py",
        "schemas/record.py:Rows",
        "pipeline/nothing/",
        "train/trainer.py:Trainr",
    ]


def commands_in(page: Path) -> list[list[str]]:
    """The words of each `oddsmill STAGE VERB …` of a page that names a verb."""
    code = code_in(page).replace("\\\n", " ")
    lines = re.findall(r"(?:^|`)(oddsmill (?:pipeline|train) \w[^`\n]*)", code, re.MULTILINE)
    return [shlex.split(line.replace("$'", "'"), comments=True) for line in lines]


@cache
def help_of(stage: str, verb: str) -> str:
    """The help of a verb."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([stage, verb, "--help"])
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        if verb == "explain":  # of a dump or of a row, each with settings of its own
            main([stage, verb, "--dump=FILE", "--help"])
    return text.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if commands_in(page)], ids=page_id)
def test_every_command_of_a_page_has_the_settings_that_it_gives(page: Path):
    unknown = []
    for _, stage, verb, *words in commands_in(page):
        text = help_of(stage, verb)
        assert text.startswith("usage:"), f"{stage} {verb}"
        words = words[: words.index("--")] if "--" in words else words
        for flag in re.findall(r"--([\w.]+)", " ".join(word for word in words if word.startswith("--"))):
            names = [flag, flag.rpartition(".")[0] or flag]  # source.fields.prompt is a key of source.fields
            if not any(re.search(rf"--{re.escape(name)}\b", text) for name in names):
                unknown.append(f"{stage} {verb} --{flag}")
    assert not unknown


def test_there_are_commands_to_check():
    assert sum(len(commands_in(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_import_of_a_page_works(page: Path):
    for statement in re.findall(r"from oddsmill[\w.]* import [\w, ]+", code_in(page)):
        exec(statement, {})


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_are_spelled_in_one_way(page: Path):
    assert not re.findall(r"-m (?:oddsmill\.)?(?:pipeline|train)\b", page.read_text(encoding="utf-8"))


def test_the_map_of_the_readme_names_every_folder():
    """The map is a tree by indentation; a folder with modules has a line under its parent's."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"## Where things are.*?```\n(.*?)```", text, re.DOTALL)
    assert tree
    named, parents = set(), []
    for indent, folder in re.findall(r"^( *)([\w.]+/) +\S", tree[1], re.MULTILINE):
        parents = [*parents[: len(indent) // 2], folder]
        named.add("".join(parents))
    folders = {
        str(path.parent.relative_to(ROOT)) + "/"
        for stage in ("schemas", "pipeline", "train")
        for path in (ROOT / stage).rglob("*.py")
    }
    assert folders <= named, "the README's map lacks these"
    assert {name for name in named if not (ROOT / name).is_dir()} == set(), "the README's map has these too many"
