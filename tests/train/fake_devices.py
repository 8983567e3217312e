"""The environment of a process of several fake CPU devices."""

import os


def fake_devices(count: int) -> dict[str, str]:
    """Returns the environment of these tests, with so many devices; programs are compiled as here (tests/conftest.py).

    Fake devices beyond the cores can deadlock in XLA:CPU's concurrency-optimized scheduler.
    """
    flags = f"--xla_force_host_platform_device_count={count} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    return os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags}", "JAX_PLATFORMS": "cpu"}
