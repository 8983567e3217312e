"""`make campaign`: attacks at random on every part, for hours. What breaks is printed with the seed that repeats it.

    python -m tests.campaign all --seed=7          every attack, each in a process of its own
    python -m tests.campaign rows --count=200      some cases of one
    python -m tests.campaign rows --only=70000012  one case anew

Findings are appended to build/campaign/NAME.findings.jsonl, and what came of each attack stands in NAME.json there; the
seed of a case that ended the process in NAME.running.
The exit code is 1 where anything broke.
"""

import argparse
import contextlib
import faulthandler
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.campaign.harness import Finding, as_json, run_attack, seeds_of
from tests.campaign.registry import ATTACKS, load_attack

LOGS = Path(__file__).parents[2] / "build" / "campaign"


def main() -> int:
    """Runs what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign")
    parser.add_argument("names", nargs="+", choices=["all", *ATTACKS], help="the attacks", metavar="NAME")
    parser.add_argument("--seed", type=int, default=1, help="other seeds are other cases")
    parser.add_argument("--count", type=int, help="the number of cases; left out: those of a whole campaign")
    parser.add_argument("--only", type=int, help="the seed of the one case that is tried")
    arguments = parser.parse_args()
    names = list(ATTACKS) if "all" in arguments.names else arguments.names
    if len(names) > 1:
        options = [option for option in sys.argv[1:] if option.startswith("--")]
        codes = [subprocess.run([sys.executable, "-m", "tests.campaign", name, *options]).returncode for name in names]
        broken = [f"{name} ({code})" for name, code in zip(names, codes, strict=True) if code]
        print(f"{len(names)} attacks: " + (f"broken in {', '.join(broken)}" if broken else "nothing broke"))
        return int(any(codes))
    return run_one(names[0], arguments)


def note(path: Path, seed: int) -> None:
    """Writes the seed of the case that begins."""
    path.write_text(f"{seed}\n")


def run_one(name: str, arguments: argparse.Namespace) -> int:
    """Runs one attack in this process; returns the exit code."""
    faulthandler.enable()
    attack = load_attack(name)
    seeds = seeds_of(arguments.seed, arguments.count or ATTACKS[name].count)
    if arguments.only is not None:
        seeds = range(arguments.only, arguments.only + 1)
    LOGS.mkdir(parents=True, exist_ok=True)

    def tell(finding: Finding) -> None:
        with open(LOGS / f"{name}.findings.jsonl", "a") as file:
            file.write(as_json(finding))
        print(f"\nBROKEN {name} --only={finding.seed}\n  " + "\n  ".join(finding.done), file=sys.stderr)
        print(finding.happened, file=sys.stderr, flush=True)

    running = LOGS / f"{name}.running"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"oddsmill-{name}-")))
        report = run_attack(name, attack, seeds=seeds, folder=folder, begun=lambda seed: note(running, seed), told=tell)
    running.unlink()
    seeds_tried = [seeds.start, seeds.stop - 1]
    record = report._asdict() | {"seeds": seeds_tried, "findings": len(report.findings), "when": time.strftime("%F %T")}
    (LOGS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{name}: {report.cases:,} cases, {report.seconds:.0f} s, {len(report.findings)} findings")
    for outcome, count in sorted(report.outcomes.items()):
        print(f"{count:>12,} {outcome}")
    return int(bool(report.findings))


if __name__ == "__main__":
    sys.exit(main())
