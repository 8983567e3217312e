"""The report names each figure with its unit, of one device."""

from types import SimpleNamespace

from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.planning.figures import Figures, Memory
from oddsmill.train.planning.plan import Plan, Trial
from oddsmill.train.planning.report import report
from oddsmill.train.planning.rows import full_rows
from oddsmill.train.planning.topologies import Topology

MEMORY = Memory(params=2**20, optimizer=2**21, frozen=0, batch=2**19, temporary=2**22, other=2**19)


def text(*, memory_bytes=2**34, formula_flops=0.0):
    figures = Figures(
        memory=MEMORY,
        in_place=3 * 2**20,
        model_flops=8e9,
        flops=3e9,
        formula_flops=formula_flops,
        moved={"all-gather": 5_000_000, "all-reduce": 0},
    )
    devices = [SimpleNamespace(device_kind="TPU v5 lite", process_index=index // 2) for index in range(4)]
    failed = Trial(mesh=MeshConfig(fsdp=4), policy=False, problem="does not fit in memory")
    fits = Trial(mesh=MeshConfig(data=1, fsdp=4), policy=True, figures=figures)
    return report(
        Plan(
            topology=Topology(name="v5e-4", devices=devices, memory_bytes=memory_bytes),
            rows=full_rows(4, row_length=24, pairs_per_row=2),
            num_parameters=1_234_567,
            trials=[failed, fits],
        )
    )


def rows_of(text):
    """The figures of the table by their names."""
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    return {line[2:30].strip(): line[30:].split() for line in lines}


def test_memory_is_in_mib_and_work_in_gflop_and_mb():
    found = rows_of(text())
    assert found["params"] == ["1.0"] and found["optimizer state"] == ["2.0"] and found["batch"] == ["0.5"]
    assert found["total"] == ["8.0", "of", "16,384"]
    assert found["of it updated in place"] == ["3.0"]
    assert found["model, GFLOP"] == ["2.0"]  # of four devices together 8
    assert found["executed, GFLOP"] == ["3.0"]
    assert found["all-gather, MB"] == ["5.0"] and "all-reduce, MB" not in found


def test_the_heading_names_devices_mesh_model_and_rows():
    found = text()
    assert "v5e-4: 4 devices (TPU v5 lite), 2 process(es); compiled, not run" in found
    assert "--mesh.fsdp=4 --gradient_checkpointing=true: fits, 0.01 GiB a device" in found
    assert "model of 1,234,567 parameters" in found
    assert "a step: 4 rows of 24, 8 pairs, 88 tokens, 8.3% padding" in found


def test_what_is_not_known_is_not_printed():
    assert rows_of(text(memory_bytes=None))["total"] == ["8.0"]
    assert "by formula" not in text() and "1.5 of them attention's, by formula" in text(formula_flops=1.5e9)
    assert not any("time" in name or "ms" in name.split(", ") for name in rows_of(text()))  # nothing was run
