"""The names inside a run's folder."""

from pathlib import Path

from oddsmill.train.checkpoint.run_files import RunFiles


def test_every_name_lies_in_the_folder_and_stands_for_one_thing(tmp_path):
    files = RunFiles(tmp_path)
    paths = [path for name, path in vars(files).items() if name != "folder"]
    paths += [files.nonfinite_dump(step, process) for step, process in ((3, None), (3, 0), (3, 1), (4, None))]
    assert len(set(paths)) == len(paths) and all(path.parent == tmp_path for path in paths)
    assert not list(tmp_path.iterdir())


def test_names_that_other_tools_and_older_runs_know_stay():
    files = RunFiles("run")
    for path, name in (
        (files.settings, "settings.yaml"), (files.metrics, "metrics.jsonl"), (files.samples, "samples.jsonl"),
        (files.checkpoints, "checkpoints"), (files.model, "export"), (files.adapter, "adapter"),
        (files.curves, "curves.png"), (files.nonfinite_dump(3, None), "nonfinite-step-3.json"),
        (files.nonfinite_dump(3, 1), "nonfinite-step-3-process-1.json"), (files.model_config, "config.json"),
    ):  # fmt: skip
        assert path == Path("run") / name
