"""The tutorial is true: its commands run, and print what the page says that they print."""

import re
import shlex
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import pytest

from oddsmill.__main__ import main
from oddsmill.schemas.console import log
from tests.compilation import as_in_a_run

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first_model.md"
HOW_IT_IS_BUILT = ROOT / "docs" / "explanation" / "how_it_is_built.md"
# The same page in seconds: what a run prints has the same words after 2 steps as after 300.
FEWER_STEPS = [
    ("max_steps=300", "max_steps=2"),
    ("warmup_steps=20", "warmup_steps=1"),
    ("eval_steps=100", "eval_steps=2"),
]
NUMBER = re.compile(r"[+-]?\d[\d,.]*(e[+-]?\d+)?")


def blocks(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The page's commands, each `bash` block with the lines of the `text` block behind it."""
    text = page.read_text(encoding="utf-8")
    for script, output in re.findall(r"```bash\n(.*?)```\n(?:```text\n(.*?)```)?", text, re.DOTALL):
        yield script, output.splitlines()


def assert_prints(expected: list[str], printed: str, *, numbers: bool) -> None:
    """Each expected line stands in what was printed, in this order.

    A line `…` stands for lines that are left out, and `…` at the end of a line for the rest of it.

    Args:
      numbers: compare numbers too, not only the words around them.
    """

    def seen(line: str) -> str:
        line = line.rstrip().removesuffix(",")
        return re.sub(r"\s+", " ", line if numbers else NUMBER.sub("0", line))

    lines = [seen(line) for line in printed.splitlines()]
    for wanted in expected:
        if wanted == "…":
            continue
        start, is_cut = seen(wanted.removesuffix("…")), wanted.endswith("…")
        found = [at for at, line in enumerate(lines) if (line.startswith(start) if is_cut else line == start)]
        assert found, f"{wanted!r} is not among what follows:\n" + "\n".join(lines)
        lines = lines[found[0] + 1 :]


def test_the_commands_of_the_page_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    stages = set()
    for script, expected in blocks(TUTORIAL):
        for full, fewer in FEWER_STEPS:
            script = script.replace(full, fewer)
        for command in script.replace("\\\n", " ").splitlines():
            # Bash's $'…' is Python's string.
            words = shlex.split(re.sub(r"\$('.*?')", lambda quoted: shlex.quote(literal_eval(quoted[1])), command))
            if words[0] == "oddsmill":
                assert main(words[1:]) == 0, command
                stages.add(tuple(words[1:3]))
            else:
                subprocess.run(words, check=True)
        # What training computes after 2 steps is not what it computes after 300.
        numbers = "oddsmill train" not in script
        if "generate" in script:
            expected = [line.split('"answer"')[0] + "…" for line in expected]
        assert_prints(expected, capfd.readouterr().out, numbers=numbers)
    assert {verb for _, verb in stages} >= {"plan", "explain", "run", "inspect", "verify", "eval", "generate", "export"}
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_page_as_it_stands_trains_a_model_that_answers(tmp_path: Path):
    """In bash, with all steps."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    script = "\n".join(
        ["set -e", f'oddsmill() {{ "{sys.executable}" -m oddsmill "$@"; }}', *(b for b, _ in blocks(TUTORIAL))]
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=as_in_a_run(), capture_output=True, text=True, check=True
    )
    assert_prints([line for _, lines in blocks(TUTORIAL) for line in lines], done.stdout, numbers=False)
    accuracy = re.search(r"reward accuracy ([\d.]+)", done.stdout)
    assert accuracy and float(accuracy[1]) > 0.9
    assert " The capital of France is Paris." in done.stdout


def test_the_pair_that_is_followed_through_the_code_is_as_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(ROOT)
    ((script, expected),) = blocks(HOW_IT_IS_BUILT)
    assert main(shlex.split(script.replace("\\\n", " "))[1:]) == 0
    assert_prints(expected, capfd.readouterr().out, numbers=True)


def test_the_python_of_the_api_page_preprocesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "handlers", [])  # what the page shows is not shown in later tests
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(script, {})
    assert (tmp_path / "out" / "first" / "manifest.json").is_file()
    assert "3,577 pairs out" in capfd.readouterr().out


def test_a_line_that_is_not_printed_is_seen():
    assert_prints(["one", "…", "three 3 …"], "one\ntwo\nthree 3 and more\n", numbers=True)
    for expected, printed in ((["two", "one"], "one\ntwo"), (["one 2"], "one 1")):
        with pytest.raises(AssertionError, match="is not among"):
            assert_prints(expected, printed, numbers=True)
    assert_prints(["one 2"], "one 1", numbers=False)
