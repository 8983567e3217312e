import traceback

import pytest

from oddsmill.schemas.errors import Refused, RunFailed, Stopped, find_ending, one_line, require, run_command


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


def test_each_end_has_its_exit_code(capsys: pytest.CaptureFixture[str]):
    assert run_command(lambda: None) == 0
    assert run_command(raising(RunFailed("the disk is full"))) == 1
    assert run_command(raising(Refused("no such file"))) == 2
    assert run_command(raising(Stopped("saved at step 3", 15))) == 143
    assert capsys.readouterr().err == "failed: the disk is full\nrefused: no such file\nstopped: saved at step 3\n"


def test_a_message_that_quotes_a_whole_file_is_shortened_in_its_middle():
    assert one_line(ValueError("a\n  b")) == "a b"
    message = one_line(ValueError(f"invalid type: {'x' * 100_000}, expected a map"))
    assert len(message) < 1010 and message.startswith("invalid type: xxx") and message.endswith("xxx, expected a map")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


def test_an_error_of_the_operating_system_is_one_message_with_its_file(capsys: pytest.CaptureFixture[str]):
    assert run_command(raising(OSError(30, "Read-only file system", "out/a.json"))) == 1
    assert capsys.readouterr().err == "failed: out/a.json: Read-only file system\n"


@pytest.mark.parametrize(
    "error",
    [
        Refused("rows.jsonl, after row 12: damaged [while running 'Read']"),
        RuntimeError(
            "Traceback (most recent call last):\n  raise Refused('…')\n"
            "oddsmill.schemas.errors.Refused: rows.jsonl, after row 12: damaged [while running 'Read']\n"
        ),
    ],
)
def test_a_refusal_is_found_without_the_name_of_the_step(error: Exception):
    assert str(find_ending(error)) == "rows.jsonl, after row 12: damaged"


def test_a_refusal_is_found_behind_other_errors():
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = Refused("no eos_token")
    assert str(find_ending(wrapped)) == "no eos_token"
    assert find_ending(ValueError("other")) is None


def test_require_names_the_setting_and_its_value():
    require(True, "beta", 1, "must be positive")
    with pytest.raises(Refused, match=r"^--beta=-1: must be positive$"):
        require(False, "beta", -1, "must be positive")


def test_a_missing_module_of_our_own_is_a_fault_and_no_advice_to_install():
    def command() -> None:
        raise ModuleNotFoundError("No module named 'oddsmill.nowhere'", name="oddsmill.nowhere")

    with pytest.raises(ModuleNotFoundError):
        run_command(command)


def test_of_what_a_runner_wraps_the_outermost_ending_of_ours_is_found():
    try:
        try:
            raise Refused("the file is damaged")
        except Refused as refused:
            raise RunFailed("rows.jsonl changed [while running 'Read']") from refused
    except RunFailed as failed:
        wrapped = RuntimeError("in a worker")
        wrapped.__cause__ = failed
        text = RuntimeError("".join(traceback.format_exception(failed)))
    for error in (wrapped, text):
        ending = find_ending(error)
        assert isinstance(ending, RunFailed)
        assert str(ending) == "rows.jsonl changed"
    assert find_ending(ValueError("RunFailed of another")) is None


def test_what_rows_and_names_hold_reaches_no_terminal(capsys: pytest.CaptureFixture[str]):
    assert run_command(raising(Refused("\x1b[2J\nok  all is well: \x9b"))) == 2
    assert run_command(raising(RunFailed("\u202e\r"))) == 1
    assert run_command(raising(Refused("--s3_secret_access_key=hunter2: https://me:hunter2@host: no"))) == 2
    assert run_command(raising(Stopped("run\x1b[2J", 2))) == 130
    assert capsys.readouterr().err == (
        "refused: \\x1b[2J\n  ok  all is well: \\x9b\nfailed: \\u202e\\r\n"
        "refused: --s3_secret_access_key=***: https://me:***@host: no\nstopped: run\\x1b[2J\n"
    )
