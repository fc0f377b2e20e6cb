"""The command as a user runs it: exit statuses, files, and what is printed."""

import fcntl
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codd_lightning.circuits import HMM, load_circuit, save_circuit
from codd_lightning.cli import feasible
from codd_lightning.cli.grid import Figure, _best, _side_by_side
from codd_lightning.cli.main import main
from codd_lightning.evaluation import render

SMALL = [
    "data.train_size=96",
    "data.validation_size=16",
    "data.test_size=16",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "trainer.log_every_n_steps=1",
    "callbacks.few_step_reasoning.examples=4",
    "evaluation.examples=8",
    "evaluation.likelihood_examples=16",
    "evaluation.steps_per_block=[1,4]",
]
PROMPT = "Ada has 3 apples. Ben brings 2 more. Ada loses 1. How many apples does Ada have?"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run of the smoke experiment."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    assert main(["train", "smoke", *SMALL, f"output_dir={folder}"]) == 0
    return folder


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
class TestTrain:
    def test_a_run_leaves_the_folder_of_the_contract(self, finished_run: Path) -> None:
        for name in (
            "config.yaml",
            "manifest.json",
            "results.json",
            "log.txt",
            "circuit/config.json",
            "circuit/model.safetensors",
            "circuit/README.md",
            "checkpoints/last.ckpt",
            "checkpoints/best.ckpt",
        ):
            assert (finished_run / name).is_file(), name
        assert list((finished_run / "tensorboard").glob("events.*"))
        assert not list(finished_run.rglob("*.partial"))

    def test_results_hold_both_decoders_at_every_budget_with_intervals(self, finished_run: Path) -> None:
        results = json.loads((finished_run / "results.json").read_text())
        assert (results["schema"], results["experiment"], results["status"]) == (1, "smoke", "completed")
        assert results["parameters"]["circuit"] == sum(
            p.numel() for p in load_circuit(finished_run / "circuit").parameters()
        )
        strict = [row for row in results["metrics"] if row["name"] == "strict_accuracy"]
        assert {(row["decoder"], row["steps_per_block"]) for row in strict} == {
            (decoder, budget) for decoder in ("factorized", "any_order") for budget in (1, 4)
        }
        for row in results["metrics"]:
            assert row["low"] <= row["value"] <= row["high"]
            assert row["n"] > 0
        for row in strict:
            assert row["split"] == "test"
            assert row["n"] == 8
            assert row["nfe"] <= 2 * row["steps_per_block"]
        gains = [row for row in results["metrics"] if row["name"] == "cll_gain"]
        nlls = {(row["name"], *row["mask_ratio"]): row["value"] for row in results["metrics"] if "mask_ratio" in row}
        for row in gains:
            bucket = tuple(row["mask_ratio"])
            assert row["value"] == pytest.approx(
                nlls["nll_factorized", *bucket] - nlls["nll_coupled", *bucket], abs=1e-5
            )

    def test_the_manifest_says_what_the_run_was_made_with(self, finished_run: Path) -> None:
        manifest = json.loads((finished_run / "manifest.json").read_text())
        assert {"versions", "hardware", "seed", "git", "command_line", "fingerprints", "resumed"} <= set(manifest)
        assert manifest["resumed"] == []
        assert len(manifest["fingerprints"]["backbone"]) == 16

    def test_tensorboard_holds_accuracies_by_budget_and_gains_by_bucket(self, finished_run: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = EventAccumulator(str(finished_run / "tensorboard"))
        board.Reload()
        tags = set(board.Tags()["scalars"])
        assert "strict_accuracy/any_order_eos_last/steps_4" in tags
        assert any(tag.startswith("validation/cll_gain/") for tag in tags)
        assert any(tag.startswith("samples/0") for tag in board.Tags()["tensors"])

    def test_checkpoints_hold_no_backbone(self, finished_run: Path) -> None:
        import torch

        checkpoint = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["state_dict"]
        assert not [name for name in checkpoint["state_dict"] if name.startswith("backbone.")]

    def test_a_finished_run_is_not_overwritten_unasked(
        self, finished_run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (finished_run / "results.json").read_bytes()
        assert main(["train", "smoke", *SMALL, f"output_dir={finished_run}"]) == 2
        assert "overwrite=true" in capsys.readouterr().err
        assert (finished_run / "results.json").read_bytes() == before

    def test_the_same_seed_gives_the_same_figures(self, finished_run: Path, tmp_path: Path) -> None:
        assert main(["train", "smoke", *SMALL, f"output_dir={tmp_path / 'again'}"]) == 0

        def figures(folder: Path) -> list[dict[str, object]]:
            rows = json.loads((folder / "results.json").read_text())["metrics"]
            timed = {"seconds_per_sample"}
            return [
                {key: value for key, value in row.items() if key not in timed}
                for row in rows
                if row["name"] != "training_seconds"
            ]

        assert figures(finished_run) == figures(tmp_path / "again")

    def test_an_unfinished_run_goes_on_from_its_last_checkpoint(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        command = ["train", "smoke", *SMALL, f"output_dir={folder}"]
        assert main(command) == 0
        whole = json.loads((folder / "results.json").read_text())["metrics"]
        (folder / "results.json").unlink()
        assert main(command) == 0
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["resumed"] == [{"step": 4}]
        again = json.loads((folder / "results.json").read_text())["metrics"]
        strict = [[row["value"] for row in rows if row["name"] == "strict_accuracy"] for rows in (whole, again)]
        assert strict[0] == strict[1]

    def test_what_was_trained_is_there_before_it_is_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("codd_lightning.cli.run.measure", interrupt)
        assert main(["train", "smoke", *SMALL, "trainer.max_epochs=1", f"output_dir={tmp_path}"]) == 130
        assert load_circuit(tmp_path / "circuit").num_states == 32
        assert not (tmp_path / "results.json").exists()

    def test_an_unfinished_run_of_another_configuration_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("seed: 1\n")
        assert main(["train", "smoke", *SMALL, f"output_dir={tmp_path}"]) == 2
        assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["circuit.num_state=3"], "circuit.num_states"),
        (["backbone=pretrained", "backbone.path_or_repo=./nowhere"], "nowhere"),
        (["circuit=pretrained", "circuit.path_or_repo=./nowhere"], "there is no circuit at ./nowhere"),
        (["data.max_response_tokens=50"], "data.max_response_tokens=50"),
        (["evaluation.steps_per_block=[64]"], "evaluation.steps_per_block=64"),
        (["evaluation.examples=100000"], "evaluation.examples=100000"),
        (["objective.canvas=stripes"], "objective.canvas=stripes"),
        (["objective.weight=heavy"], "objective.weight=heavy"),
        (["data.task.min_steps=4", "data.task.max_steps=3"], "min_steps"),
        (["data=jsonl", "data.task.train=./nowhere.jsonl"], "nowhere.jsonl"),
        (["evaluation.decoders=[{proposal:magic}]"], "decoding.proposal=magic"),
        (["circuit=none"], "circuit"),
    ],
)
def test_what_the_user_can_mend_ends_with_status_2_and_nothing_written(
    overrides: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["train", "smoke", *overrides, f"output_dir={folder}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("codd: ")
    assert message.count("\n") == 1
    assert words in message
    assert not folder.exists()


class TestMismatch:
    def test_a_circuit_of_another_vocabulary_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_circuit(HMM(2, 7, 32), tmp_path / "circuit")
        assert main(["generate", PROMPT, "--circuit", str(tmp_path / "circuit")]) == 2
        assert "7 tokens" in capsys.readouterr().err

    def test_a_circuit_of_shorter_blocks_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from codd_lightning.backbones import load_backbone

        save_circuit(HMM(2, load_backbone("codd_tiny").vocab_size, 16), tmp_path / "circuit")
        assert main(["generate", PROMPT, "--circuit", str(tmp_path / "circuit")]) == 2
        assert "decoding.block_length=32" in capsys.readouterr().err


class TestGenerate:
    def test_both_decoders_side_by_side(self, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["generate", PROMPT, PROMPT, "--circuit", str(finished_run / "circuit"), "--steps", "8", "--json"]
        assert main(command) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["decoder"] for row in rows] == ["factorized", "any_order"] * 2
        assert all(row["text"] for row in rows)
        assert all(row["nfe"] <= 8 for row in rows)
        assert rows[1]["circuit_calls"] > 0

    def test_words_that_the_backbone_has_never_seen_are_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", "What is π in Zürich?", PROMPT, "--steps", "2", "--json"]) == 0
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "tokens of 'What is π in Zürich?' are unknown to the backbone" in said[0]

    def test_prompts_come_from_files_and_standard_input(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text("\ufeff" + json.dumps({"prompt": PROMPT}) + "\n\n" + PROMPT + "\n", encoding="utf-8")
        assert main(["generate", "--file", str(prompts), "--json"]) == 0
        from_file = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["prompt"] for line in from_file] == [PROMPT, PROMPT]
        monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
        assert main(["generate", "--json"]) == 0
        assert capsys.readouterr().out.splitlines() == from_file[:1]

    def test_a_trace_shows_every_step(self, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", PROMPT, "--circuit", str(finished_run), "--steps", "4", "--trace"]) == 0
        printed = capsys.readouterr().out
        assert "any_order_eos_last: Ada has 3 apples." in printed
        assert "│    2 │" in printed

    def test_without_a_circuit_only_the_backbone_speaks(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", PROMPT, "--json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--proposal", "any_order"], "--circuit"),
            (["--steps", "0"], "--steps 0"),
            (["--steps", "1"], "--steps 1"),
            (["--max-new-tokens", "0"], "--max-new-tokens 0"),
            (["--remasking", "magic"], "--remasking magic"),
            (["--seed", "-1"], "--seed -1"),
            (["--backbone", "./nowhere"], "nowhere"),
            (["--circuit", "./nowhere"], "nowhere"),
            (["--paradigm", "magic"], "--paradigm magic"),
            (["--file", "x"], "both as arguments and by --file"),
            (["--json", "--trace"], "choose one"),
            (["--max-new-tokens", "100000000"], "--max-new-tokens 100000000"),
        ],
    )
    def test_bad_options_end_with_status_2(
        self, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", PROMPT, *options]) == 2
        assert words in capsys.readouterr().err


def imported_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after running `code`."""
    code += "\nprint(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


HEAVY = {"torch", "numpy", "lightning", "transformers", "torchmetrics", "datasets", "matplotlib", "deepspeed"}


@pytest.mark.parametrize(
    ("line", "unwanted"),
    [
        ("--help", HEAVY | {"hydra"}),
        ("train --help", HEAVY | {"hydra"}),
        ("cache --help", HEAVY | {"hydra"}),
        ("evaluate --help", HEAVY | {"hydra"}),
        ("tune --help", HEAVY | {"hydra"}),
        ("generate --help", HEAVY | {"hydra"}),
        ("train smoke --help", HEAVY),
        ("evaluate smoke --help", HEAVY),
        ("train smoke circuit.num_state=4", HEAVY),
        ("train smoke -m circuit.num_states=4,0", HEAVY),
    ],
)
def test_help_and_errors_of_the_command_line_import_nothing_heavy(line: str, unwanted: set[str]) -> None:
    code = (
        "import contextlib, sys\n"
        "from codd_lightning.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({line.split()!r})"
    )
    assert not imported_by(code) & unwanted


def test_the_package_itself_imports_nothing_heavy() -> None:
    assert not imported_by("import sys, codd_lightning") & (HEAVY | {"hydra"})


@pytest.mark.parametrize("line", ["bogus", "train --bogus", "export", "generate --steps many"])
def test_a_wrong_command_line_is_one_line_too(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("codd: ")
    assert error.count("\n") == 1
    assert error.endswith(" --help\n")


@pytest.mark.parametrize("command", ["train", "cache", "evaluate", "tune"])
def test_a_command_on_an_experiment_says_what_it_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: codd {command} ")


def test_the_help_of_an_experiment_lists_groups_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "smoke", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "circuit.num_states=32" in printed
    assert "optimizer: adamw, adamw_cycles, anemone, em, muon" in printed


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_grid_runs_every_cell_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*SMALL, "trainer.max_epochs=1", "circuit.num_states=4,8", "evaluation.steps_per_block=[4]"]
    assert main(["train", "smoke", "-m", *command]) == 0
    results = sorted(tmp_path.glob("outputs/smoke/*/*/results.json"))
    assert len(results) == 2
    assert {load_circuit(path.parent / "circuit").config()["num_states"] for path in results} == {4, 8}


def test_nothing_of_a_grid_runs_when_a_cell_of_it_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "smoke", "-m", *SMALL, "circuit.num_states=4,0"]) == 2
    assert capsys.readouterr().err == "codd: circuit.num_states=0 must be at least 1\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["circuit.num_states=glob(*)"], "codd: "),
        (["output_dir=/dev/null", "circuit.num_states=4,8"], "/dev/null"),
        (["output_dir=one,two"], "a grid has one folder"),
        (["hydra.sweep.dir=elsewhere", "circuit.num_states=4,8"], "a grid has one folder"),
        (["circuit.num_states=4,4"], "one cell twice"),
        (["optimizer.cycles=3,1"], "optimizer.static_cycles=1 must be less than optimizer.cycles=1"),
    ],
)
def test_what_is_wrong_with_a_grid_is_one_line(
    overrides: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "smoke", "-m", *SMALL, *overrides]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_grid_goes_on_after_a_failed_cell_and_skips_finished_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid"
    sweep = ["optimizer=muon,em", "evaluation.steps_per_block=[1],[2]"]
    command = ["train", "smoke", "-m", *SMALL, "trainer.max_epochs=1", *sweep, f"output_dir={grid}"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("optimizer=muon is for the matrices") == 2
    finished = sorted(path.parent.name for path in grid.glob("*/results.json"))
    assert finished == ["evaluation.steps_per_block=[1],optimizer=em", "evaluation.steps_per_block=[2],optimizer=em"]
    before = [path.read_bytes() for path in sorted(grid.glob("*/results.json"))]
    assert main([*command, "trainer.progress_bar=true"]) == 2  # how a run is shown makes no other one of it
    assert capsys.readouterr().out.count("finished before") == 2
    assert [path.read_bytes() for path in sorted(grid.glob("*/results.json"))] == before


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_cells_may_run_beside_each_other_and_the_best_is_a_line_to_paste(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [*SMALL, "trainer.max_epochs=1", "evaluation.examples=0", "callbacks=none"]
    grid = tmp_path / "a grid's"
    quoted = str(grid).replace("'", r"\'")
    sweep = ["optimizer=adamw,muon", "optimizer.lr=0.1,0.0001", f"output_dir='{quoted}'"]
    assert main(["train", "smoke", "-m", *small, *sweep, "hydra/launcher=local"]) == 2
    printed = capsys.readouterr().out
    assert {path.parent.name for path in grid.glob("*/results.json")} == {
        "optimizer.lr=0.1,optimizer=adamw",
        "optimizer.lr=0.0001,optimizer=adamw",
    }
    assert printed.count("failed, see") == 2
    assert "optimizer=muon is for the matrices" in (grid / "optimizer.lr=0.1,optimizer=muon.log").read_text()
    results = {path.parent.name: json.loads(path.read_text())["metrics"] for path in grid.glob("*/results.json")}
    gains = {name: [row["value"] for row in rows if row["name"] == "cll_gain"] for name, rows in results.items()}
    best = max(gains, key=lambda name: sum(gains[name]))
    line = printed.splitlines()[-1].split()
    assert line[:3] == ["codd", "train", "smoke"]
    assert set(best.split(",")) <= set(line)
    assert not any(word.startswith(("output_dir", "hydra")) for word in line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_grid_that_is_ended_leaves_no_cell_behind(number: signal.Signals, tmp_path: Path) -> None:
    code = "import sys; from codd_lightning.cli.main import main; sys.exit(main())"
    sweep = ["circuit.num_states=4,5,6", "hydra/launcher=local", "hydra.launcher.at_once=2", f"output_dir={tmp_path}"]
    command = [sys.executable, "-c", code, "train", "smoke", "-m", *SMALL, *sweep]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as grid:
        while len(list(tmp_path.glob("*/.lock"))) < 2:
            time.sleep(0.1)
            assert grid.poll() is None
        grid.send_signal(number)
        assert f"start the same grid with output_dir={tmp_path} to go on" in grid.communicate()[1]
    assert grid.returncode == 130
    cells = [path.parent for path in tmp_path.glob("*/.lock")]
    assert len(cells) == 2
    for cell in cells:
        with (cell / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process is at work there


@pytest.mark.parametrize("many", [1, 42])
def test_cells_are_compared_by_figures_that_can_be_read(many: int) -> None:
    names = [f"any_order_left_to_right_eos_last @{steps}" for steps in range(many)]
    figures = {name: Figure("mean accuracy", 0.0, f"{10 + index}.5") for index, name in enumerate(names)}
    measured = {"seed=0": figures, "seed=1": None, "seed=2": {}}
    printed = render(_side_by_side(Path("outputs"), measured))
    assert "…" not in printed
    assert [printed.count(figure.text) for figure in figures.values()] == [1] * many
    assert printed.count("failed") == many
    assert all(printed.count(name) == 1 for name in measured)


def test_long_names_of_cells_are_not_cut() -> None:
    cells = [f"objective.weight=inverse_t,optimizer.lr=0.0625,seed={seed}" for seed in range(6)]
    figures = {f"any_order_eos_last @{steps}": Figure("mean accuracy", 0.0, "1") for steps in range(8)}
    printed = render(_side_by_side(Path("outputs"), dict.fromkeys(cells, figures)))
    assert "…" not in printed
    assert all(printed.count(name) == 1 for name in cells)


def test_a_tie_of_cells_is_left_to_what_tells_them_apart() -> None:
    def figures(accuracy: float, gain: float) -> dict[str, Figure]:
        return {"any_order @1": Figure("mean accuracy", accuracy, ""), "gain 0–1": Figure("mean gain", gain, "")}

    one, other = ["a=1"], ["a=2"]
    assert _best([(one, figures(0.5, 0.1)), (other, figures(0.0, 0.2))]) == ("mean accuracy", ("a=1",))
    assert _best([(one, figures(0.0, 0.1)), (other, figures(0.0, 0.2))]) == ("mean gain", ("a=2",))
    assert _best([(one, figures(0.0, 0.2)), (other, figures(0.0, 0.2))]) is None


def test_the_best_of_several_seeds_is_a_setting_and_no_seed() -> None:
    def accuracy(value: float) -> dict[str, Figure]:
        return {"any_order @1": Figure("mean accuracy", value, "")}

    lucky = [(["a=1", f"seed={seed}"], accuracy(value)) for seed, value in enumerate((0.9, 0.1))]
    sound = [(["a=2", f"seed={seed}"], accuracy(value)) for seed, value in enumerate((0.6, 0.6))]
    assert _best([*lucky, *sound]) == ("mean accuracy", ("a=2",))
    assert _best(lucky) is None


def test_a_cells_folder_is_given_as_its_grid_named_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = tmp_path / "objective.canvas=block,seed=0"
    assert main(["evaluate", "smoke", f"output_dir={cell}"]) == 2
    assert f"no finished run in {cell}" in capsys.readouterr().err


def test_a_run_that_has_no_circuit_yet_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert "is a run without a circuit: let it finish, if it trains one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_an_experiment_may_name_its_grid_and_compare_at_equal_size(tmp_path: Path) -> None:
    small = [*SMALL, "callbacks=few_step_reasoning", "trainer.max_epochs=1", "evaluation.examples=0"]
    small.append("circuit.max_parameters=20000")
    assert main(["train", "structures", "-m", *small, f"output_dir={tmp_path}"]) == 0
    cells = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/results.json")}
    assert set(cells) == {"circuit=hmm", "circuit=mixture", "circuit=tree", "circuit=factorized"}
    for name in ("hmm", "mixture", "tree"):
        assert 14000 < cells[f"circuit={name}"]["parameters"]["circuit"] <= 20000
    assert main(["train", "structures", "-m", *small, "circuit=hmm", f"output_dir={tmp_path / 'one'}"]) == 0
    assert [path.parent.name for path in tmp_path.glob("one/*/results.json")] == ["run"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_circuit_without_parameters_is_measured_as_the_backbone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(["train", "smoke", *SMALL, "circuit=factorized", f"output_dir={folder}"]) == 0
    rows = json.loads((folder / "results.json").read_text())["metrics"]
    assert all(abs(row["value"]) < 1e-5 for row in rows if row["name"] == "cll_gain")
    assert "circuit.num_states=32 has no effect" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("native", [False, True])
def test_what_is_slow_without_bfloat16_is_said(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feasible, "multiplies_bfloat16", lambda on_gpu: native)
    quick = ["circuit=factorized", "trainer.precision=bf16-mixed", f"output_dir={tmp_path / 'run'}"]
    assert main(["train", "smoke", *SMALL, *quick]) == 0
    assert ("as with trainer.precision=32-true" in caplog.text) != native


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["objective=masked_diffusion"], "circuit=none"),
        (["evaluation.likelihood_canvas=foo"], "evaluation.likelihood_canvas=foo"),
        (["trainer.devices=9999999"], "trainer.devices=9999999"),
        (["data.train_size=7"], "data.batch_size"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true"),
        (["callbacks.few_step_reasoning.decoders=[]"], "callbacks.few_step_reasoning.decoders"),
        (["callbacks.few_step_reasoning.examples=65"], "callbacks.few_step_reasoning.examples=65"),
        (["optimizer.lr=inf"], "optimizer.lr=inf"),
        (["backbone.device=foo"], "backbone.device=foo is not one of this machine, which has cpu"),
        (["backbone.dtype=float13"], "backbone.dtype=float13 is not one of auto"),
        (["objective=joint_likelihood", "circuit=none"], "objective: JointModule needs a circuit"),
        (["=3"], "key=value"),
        (["optimizer=muon"], "optimizer=muon"),
        (["optimizer.betas=[2.0,0.9]"], "beta"),
        (["data.max_prompt_tokens=1"], "data.max_prompt_tokens"),
        (["callbacks.few_step_reasoning.decoders=[{proposal:magic}]"], "decoding.proposal=magic"),
        (["circuit._target_=os.getcwd"], "circuit._target_=os.getcwd makes a str, not a Circuit"),
        (["circuit=null"], "circuit=null is not a choice"),
        (["~circuit"], "circuit is missing"),
        (["~optimizer"], "optimizer is missing"),
        (["data.task=null"], "data.task is missing"),
        (["seed=4294967296"], "seed=4294967296"),
        (["output_dir="], "output_dir is empty"),
    ],
)
def test_what_could_only_fail_later_is_refused_before_anything_is_written(
    overrides: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "smoke", f"output_dir={tmp_path / 'out'}", *overrides]) == 2
    error = capsys.readouterr().err
    assert named in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "precious.bin").touch()
    assert main(["train", "smoke", f"output_dir={tmp_path}", "overwrite=true"]) == 2
    assert "holds files but no run" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "precious.bin").exists()


def test_a_prompt_with_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "[/a] hello", "--max-new-tokens", "2", "--block-length", "2", "--steps", "1"]) == 0
    assert "[/a] hello" in capsys.readouterr().out


def test_a_prompt_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "\udcff"]) == 2
    assert "half a character" in capsys.readouterr().err
