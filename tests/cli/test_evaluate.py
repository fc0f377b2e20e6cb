"""`codd evaluate` as a user runs it: alone, by two processes, after a kill, and with the wrong folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from codd_lightning.cli.main import main
from codd_lightning.cli.run_folder import RunFolder

from .small import SMALL

MEASURE = [*SMALL, "evaluation.examples=12", "evaluation.batch_size=5", "evaluation.steps_per_block=[1,4]"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def alone(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation by one process."""
    folder = tmp_path_factory.mktemp("alone") / "evaluation"
    assert main(["evaluate", "smoke", *MEASURE, *pretrained(trained), f"output_dir={folder}"]) == 0
    return folder


def pretrained(run: Path) -> list[str]:
    return ["circuit=pretrained", f"circuit.path_or_repo={run / 'circuit'}"]


def samples(folder: Path) -> list[dict[str, Any]]:
    """What was decoded, without the time that it took."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def rows(folder: Path) -> list[dict[str, Any]]:
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    return [{k: v for k, v in row.items() if k != "seconds_per_sample"} for row in metrics]


def test_every_sample_is_written_and_the_rows_are_their_shares(alone: Path) -> None:
    decoded = samples(alone)
    assert len(decoded) == 3 * 2 * 12
    for row in rows(alone):
        if row["name"] in ("strict_accuracy", "flexible_accuracy"):
            labels = ("decoder", "remasking", "eos", "steps_per_block")
            mine = [s for s in decoded if all(s[label] == row[label] for label in labels)]
            grade = row["name"].partition("_")[0]
            assert row["n"] == len(mine) == 12
            assert row["value"] == pytest.approx(sum(s[grade] for s in mine) / 12)
            assert row["nfe"] == pytest.approx(sum(s["nfe"] for s in mine) / 12)
            assert row["tpf"] == pytest.approx(sum(s["tokens"] for s in mine) / sum(s["nfe"] for s in mine))
    assert all(len(s["pieces"]) == s["tokens"] for s in decoded)
    assert not (alone / "samples").exists()


def test_two_processes_decode_what_one_does_to_the_last_token(trained: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    both = ["trainer.devices=2", f"output_dir={folder}"]
    assert main(["evaluate", "smoke", *MEASURE, *pretrained(trained), *both]) == 0
    assert samples(folder) == samples(alone)
    assert rows(folder) == rows(alone)


def test_a_stopped_evaluation_decodes_only_what_is_missing(
    trained: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import codd_lightning.evaluation.few_step as few_step

    command = ["evaluate", "smoke", *MEASURE, *pretrained(trained), f"output_dir={tmp_path / 'stopped'}"]
    decode, asked = few_step.generate, []

    def stops_at_the_fifth(*args: Any, **options: Any) -> Any:
        asked.append(len(args[1]))
        if len(asked) == 5:
            raise KeyboardInterrupt
        return decode(*args, **options)

    monkeypatch.setattr(few_step, "generate", stops_at_the_fifth)
    assert main(command) == 130
    kept = tmp_path / "stopped" / "samples" / "rank_0000.jsonl"
    content = kept.read_bytes()
    kept.write_bytes(content[:-40])  # a kill in the middle of a line
    assert main(command) == 0
    assert len(asked) == 5 + 18 - 3  # 18 batches; of four finished ones the torn one is decoded again
    assert samples(tmp_path / "stopped") == samples(alone)
    assert rows(tmp_path / "stopped") == rows(alone)


def test_a_finished_run_is_measured_again_in_its_folder(trained: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert main(["evaluate", "smoke", *MEASURE, f"output_dir={folder}"]) == 0
    assert samples(folder) == samples(alone)
    assert "training_seconds" in [row["name"] for row in rows(folder)]
    assert [row for row in rows(folder) if row["split"] == "test"] == rows(alone)
    again = json.loads((folder / "manifest.json").read_text())["measured_again"]
    assert [entry["evaluation"]["examples"] for entry in again] == [12]


def test_what_has_learnt_nothing_is_refused_and_nothing_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "smoke", *SMALL, f"output_dir={tmp_path / 'none'}"]) == 2
    error = capfd.readouterr().err
    assert "circuit=hmm has learnt nothing yet (no finished run in" in error
    assert len(error.splitlines()) == 1
    assert main(["evaluate", "list_backbone", f"output_dir={tmp_path / 'none'}"]) == 2
    assert "backbone=llama_scratch has learnt nothing yet" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_template_that_does_not_exist_is_refused(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*pretrained(trained), "evaluation.templates=[shouting]", f"output_dir={tmp_path / 'none'}"]
    assert main(["evaluate", "smoke", *SMALL, *given]) == 2
    assert "evaluation.templates: shouting is not one of plain" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_run_of_another_circuit_is_refused(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (trained / "results.json").read_bytes()
    assert main(["evaluate", "smoke", *SMALL, "circuit.num_states=8", f"output_dir={trained}"]) == 2
    error = capfd.readouterr().err
    assert "with another circuit (circuit.num_states: 32 there, 8 here): repeat its overrides" in error
    assert (trained / "results.json").read_bytes() == before


def test_samples_of_other_settings_are_refused_and_kept(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "samples").mkdir()
    (folder / "samples" / "settings.json").write_text("{}\n")
    assert main(["evaluate", "smoke", *MEASURE, f"output_dir={folder}"]) == 2
    assert "holds samples of other weights or settings: add overwrite=true" in capfd.readouterr().err
    assert (folder / "samples" / "settings.json").read_text() == "{}\n"


def test_what_is_not_measured_again_stays(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = rows(folder)
    assert main(["evaluate", "smoke", *SMALL, "evaluation.examples=0", f"output_dir={folder}"]) == 0
    after = rows(folder)
    assert [row for row in after if "decoder" in row] == [row for row in before if "decoder" in row]
    assert sorted(row["name"] for row in after) == sorted(row["name"] for row in before)


def test_two_commands_do_not_work_in_one_folder(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    other = RunFolder(OmegaConf.create({"output_dir": str(folder), "experiment_name": "smoke"}))
    other.hold()
    assert main(["evaluate", "smoke", *MEASURE, f"output_dir={folder}"]) == 2
    assert "another command works in this folder" in capfd.readouterr().err
    other.close()
    assert main(["evaluate", "smoke", *SMALL, f"output_dir={folder}"]) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["trainer.devices=999"], "trainer.devices=999 is more than"),
        (["evaluation.steps_per_block=[4,4]"], "names a budget twice"),
        (["evaluation.decoders=[{proposal: latent},{proposal: latent}]"], "evaluation.decoders names latent twice"),
    ],
)
def test_what_could_not_work_is_refused_first(
    options: list[str], complaint: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*SMALL, *pretrained(trained), *options, f"output_dir={tmp_path / 'none'}"]
    assert main(["evaluate", "smoke", *given]) == 2
    assert complaint in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("results.json", '{"schema": 1, "metr'),
        ("results.json", "{}"),
        ("manifest.json", "x"),
        ("config.yaml", "a: ["),
        ("config.yaml", None),
        ("samples/rank_0007.jsonl", "null\n"),
        ("samples/rank_0007.jsonl", '{"index": 0}\n'),
        (
            "circuit/config.json",
            '{"circuit": "hmm", "num_states": 32, "vocab_size": 141, "block_length": 32, '
            '"homogeneous": true, "tuned": {"any_order_eos_last": {"gamma": "x", "tau": 0.0}}}',
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    file: str, content: str | None, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert main(["evaluate", "smoke", *SMALL, f"output_dir={folder}"]) == 0  # so that only the damage is new
    path = folder / file
    if file.startswith("samples"):
        path.parent.mkdir()
        settings = tmp_path / "settings"
        _keep_settings(folder, settings)
        shutil.copy(settings, path.parent / "settings.json")
    capfd.readouterr()
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert main(["evaluate", "smoke", *SMALL, "decoding.tuned=false", f"output_dir={folder}"]) == 2
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1
    assert Path(file).name in error


def _keep_settings(folder: Path, to: Path) -> None:
    """The settings file of a measurement of this folder, taken while it runs."""
    import codd_lightning.cli.measure as measuring

    write = measuring.write_samples

    def keep(path: Path, records: Any) -> None:
        shutil.copy(folder / "samples" / "settings.json", to)
        write(path, records)

    measuring.write_samples = keep
    shutil.rmtree(folder / "samples")
    try:
        assert main(["evaluate", "smoke", *SMALL, f"output_dir={folder}"]) == 0
    finally:
        measuring.write_samples = write
    (folder / "samples").mkdir()


def test_a_measurement_asks_nothing_of_the_batches_of_training(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    given = ["data.batch_size=7", "trainer.devices=2", f"output_dir={folder}"]  # 7 does not divide, and need not
    assert main(["evaluate", "smoke", *SMALL, *given]) == 0


def test_ctrl_c_before_anything_has_begun_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import codd_lightning.cli.evaluate as command

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "compose_experiment", interrupted)
    assert main(["evaluate", "smoke"]) == 130
    assert capfd.readouterr().err == "codd: interrupted\n"
