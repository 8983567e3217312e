"""What processes are started with is compared, setting by setting, before they do anything together."""

import copy
import json
from pathlib import Path

import pytest

import oddsmill.train.parallel.agreement
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.settings import setting_types
from oddsmill.train.config.devices import DistributedConfig, MeshConfig
from oddsmill.train.config.evaluate import EvaluateConfig
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.model import LoraConfig, ModelConfig
from oddsmill.train.config.sampling import SampleAnswerSettings
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.parallel.agreement import check_agreement, check_folder_is_shared, differences
from oddsmill.train.parallel.failures import _is_agreed

TRAIN = TrainConfig(data="d", run_dir="r", model=ModelConfig(path="m"), lora=LoraConfig())
EVALUATE = EvaluateConfig(data="d", model=ModelConfig(path="m"), mesh=MeshConfig())
EXPORT = ExportConfig(run_dir="r", out="o", mesh=MeshConfig())
# Content is compared in place of these paths, and each process has its own place among the others.
APART = {"model", "data", "eval_data", "model.path", "model.config", "model.revision"}


class Processes:
    """Two processes that take turns: the messages of the one before are given to the one after."""

    def __init__(self, monkeypatch):
        self.said: list[bytes] = []
        self.others: list[bytes] | None = None
        module = oddsmill.train.parallel.agreement
        monkeypatch.setattr(module, "is_joined", lambda: True)
        monkeypatch.setattr(module, "gather_bytes", self.gather)

    def gather(self, message):
        self.said.append(message)
        return [message, message if self.others is None else self.others.pop(0)]

    def compare(self, first, second):
        """The error of the first process, beside a second one; None where they agree."""
        self.said, self.others = [], None
        second()
        self.others = list(self.said)
        try:
            first()
            return None
        except Refused as error:
            message, is_agreed = str(error), _is_agreed(error)
        assert is_agreed  # all raise it alike: nobody waits for anybody
        return message


def altered(settings, name):
    """A copy with another value of a setting, whatever the checks of the class say to it."""
    whole = group = copy.copy(settings)
    *groups, last = name.split(".")
    for part in groups:
        inner = copy.copy(getattr(group, part))
        object.__setattr__(group, part, inner)
        group = inner
    object.__setattr__(group, last, "another value")
    return whole


@pytest.mark.parametrize("settings", [TRAIN, EVALUATE, EXPORT], ids=lambda settings: type(settings).__name__)
def test_every_setting_that_two_processes_differ_in_is_refused_by_name(monkeypatch, settings):
    names = [name for name, _ in setting_types(type(settings))]
    assert len(names) > 10
    processes = Processes(monkeypatch)

    def check(values):
        return lambda: check_agreement("oddsmill train x", values, apart=("data", "eval_data", "model"))

    assert processes.compare(check(settings), check(copy.deepcopy(settings))) is None
    for name in names:
        message = processes.compare(check(settings), check(altered(settings, name)))
        if name in APART or name.startswith("distributed"):
            assert message is None, name
        else:
            assert message is not None, name
            assert f"the processes of this run differ in --{name}" in message and "another value" in message


def test_who_has_which_value_is_told_in_words():
    facts = [{"--beta": 0.1, "jax": "0.10"}] * 3 + [{"--beta": 0.2, "jax": "0.10"}] + [{"--beta": 0.1}]
    assert differences(facts) == [
        "--beta: 0.1 in processes 0, 1, 2, 4, 0.2 in process 3",
        "jax: 0.10 in processes 0, 1, 2, 3, nothing in process 4",
    ]
    [many] = differences([{"x": 1}] * 100 + [{"x": 2}])
    assert many == "x: 1 in processes 0, 1, 2, 3 and 96 more, 2 in process 100"
    assert not differences([{"x": 1}] * 3)
    [shown] = differences([{"x": ""}, {"x": "y" * 1000}])
    assert shown.startswith('x: "" in process 0, yyy') and len(shown) < 300


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"JAX_COMPILATION": None}, None),
        ({"XLA_FLAGS": "--xla_dump_to=/tmp/1 --xla_gpu_enable_fast_min_max=true"}, None),
        ({"XLA_FLAGS": ""}, "XLA_FLAGS: --xla_gpu_enable_fast_min_max=true in process 0"),
        ({"NVIDIA_TF32_OVERRIDE": "1"}, "NVIDIA_TF32_OVERRIDE: null in process 0, 1 in process 1"),
    ],
)
def test_the_environment_is_compared_where_results_depend_on_it(monkeypatch, other, expected):
    processes = Processes(monkeypatch)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_fast_min_max=true --xla_dump_to=/tmp/0")

    def second():
        with monkeypatch.context() as patch:
            for name, value in other.items():
                patch.setenv(name, value or "x")
                if value == "":
                    patch.delenv(name)
            check_agreement("c", TRAIN)

    message = processes.compare(lambda: check_agreement("c", TRAIN), second)
    assert message is None if expected is None else expected in message


def test_commands_code_and_content_are_compared(monkeypatch):
    processes = Processes(monkeypatch)

    def check(command="c", **facts):
        return lambda: check_agreement(command, TRAIN, facts=lambda: facts)

    assert "the command: c in process 0, other in process 1" in processes.compare(check(), check("other"))
    found = processes.compare(check(rope_theta=1e4), check(rope_theta=5e5))
    assert "rope_theta: 10000.0 in process 0, 500000.0 in process 1" in found

    def other_code():
        with monkeypatch.context() as patch:
            own = oddsmill.train.parallel.agreement.code_facts()
            patch.setattr(
                oddsmill.train.parallel.agreement, "code_facts", lambda: own | {"the code of oddsmill": "0", "jax": "1"}
            )
            check()()

    message = processes.compare(check(), other_code)
    assert "the code of oddsmill: " in message and "jax: " in message


def test_a_relative_run_dir_is_compared_as_the_folder_that_it_is(monkeypatch, tmp_path):
    processes = Processes(monkeypatch)

    def elsewhere():
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            check_agreement("c", TRAIN)

    message = processes.compare(lambda: check_agreement("c", TRAIN), elsewhere)
    assert f"--run_dir: {Path.cwd() / 'r'} in process 0, {tmp_path / 'r'} in process 1" in message


def test_one_process_alone_compares_nothing(monkeypatch):
    monkeypatch.setattr(oddsmill.train.parallel.agreement, "code_facts", lambda: pytest.fail("read for nothing"))
    check_agreement("c", TRAIN, facts=lambda: pytest.fail("read for nothing"))
    check_folder_is_shared(Path("nowhere"), setting="run_dir")


@pytest.mark.parametrize("process", [0, 1])
def test_a_folder_that_another_process_does_not_share_is_refused_in_all(monkeypatch, tmp_path, process):
    module = oddsmill.train.parallel.agreement
    own, first = tmp_path / "own", tmp_path / "first"
    own.mkdir()
    first.mkdir()
    seen_by = [b"\1", b"\0"]
    monkeypatch.setattr(module, "is_joined", lambda: True)
    monkeypatch.setattr(module, "process_index", lambda: process)
    monkeypatch.setattr(module, "_FOLDER_PATIENCE_S", 0.0)
    answers = iter([[b".probe", b".other"], [b"", b""], seen_by])
    monkeypatch.setattr(module, "gather_bytes", lambda message: next(answers))
    with pytest.raises(Refused, match="process 1 sees another folder there than process 0") as refused:
        check_folder_is_shared(first if process == 0 else own, setting="run_dir")
    assert _is_agreed(refused.value)
    assert not list(tmp_path.glob("*/*"))


def test_all_settings_can_be_told_to_other_processes():
    """A value that is no JSON would end every run of several processes."""
    for settings in (TRAIN, EVALUATE, EXPORT, SampleAnswerSettings(), DistributedConfig()):
        json.dumps(dict(oddsmill.train.parallel.agreement.settings_by_name(settings)))
