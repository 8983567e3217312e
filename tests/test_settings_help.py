"""Each verb's `--help` lists its settings, and imports none of the libraries that compute."""

import subprocess
import sys

import pytest

HEAVY = ("jax", "flax", "optax", "orbax", "grain", "apache_beam")
VERBS = {
    "train": ("run", "eval", "generate", "plan", "export"),
    "pipeline": ("run", "plan", "explain", "inspect", "verify", "report"),
}


@pytest.mark.parametrize(("stage", "verb"), [(stage, verb) for stage, verbs in VERBS.items() for verb in verbs])
def test_help_lists_the_settings_and_computes_nothing(stage: str, verb: str):
    code = (
        "import sys, oddsmill.__main__\n"
        f"try: oddsmill.__main__.main([{stage!r}, {verb!r}, '--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert f"oddsmill {stage} {verb}" in usage[0] and any("--config" in line for line in usage)
