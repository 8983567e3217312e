"""How the programs of tests are compiled: quickly, but where a test says as in a run."""

import os

# Of XLA: it writes a program as one module of LLVM, and without the detour of its fusion emitters.
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def compile_quickly() -> None:
    """Sets it for this process, before JAX is imported, and for those that it starts."""
    os.environ |= {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip(),
    }


def as_in_a_run() -> dict[str, str]:
    """Returns the environment of a process that compiles as those of users do."""
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "").removesuffix(_FLAGS).strip()}
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    return environment
