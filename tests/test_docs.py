"""What the documentation shows, runs: its commands, cut down to seconds, and its examples."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shown import PAGES, ROOT, blocks, shown_commands, words_of

from codd_lightning.backbones.families import FAMILIES
from codd_lightning.circuits import HMM, save_jpc
from codd_lightning.cli.arguments import EXPERIMENT_COMMANDS
from codd_lightning.cli.main import main
from codd_lightning.decoding.question import PROPOSALS
from codd_lightning.decoding.remasking import REMASKING

RUN = "outputs/quickstart/DATE_TIME"  # as the pages call it
# A value for what a page leaves open.
OPEN = {"RUN": RUN, "FOLDER": f"{RUN}/circuit", "EXPERIMENT": "smoke"}
# Sizes at which a command takes seconds; where a page gives a number, the smaller one counts.
TINY = {
    "data.train_size": "48",
    "data.validation_size": "4",
    "data.test_size": "4",
    "trainer.max_epochs": "1",
    "trainer.progress_bar": "false",
    "trainer.num_threads": "1",
    "callbacks": "none",
    "evaluation.examples": "2",
    "evaluation.likelihood_examples": "4",
    "evaluation.steps_per_block": "[4]",
    "tuning.examples": "2",
    "tuning.gammas": "[1.0]",
    "tuning.taus": "[0.0]",
}
# What the sizes of some commands must be besides.
BESIDES = {
    "callbacks=cockpit": {"data.validation_size": "64", "callbacks.few_step_reasoning.examples": "2"},
    "structures": {"circuit.max_parameters": "20000"},
    "known_barrier": {"circuit.num_states": "4,8"},
    "data.template=marked": {  # a template of GSM8K, like the command before it
        "data": "gsm8k",
        "data.task.repo": "null",
        "data.task.train": "gsm8k_train.jsonl",
        "data.task.test": "gsm8k_test.jsonl",
    },
}
# What these words begin does not run here, and why.
NOT_RUN = {
    "make": "the Makefile's own targets: .ci/run makes them",
    "pip install": "needs the package index; make package installs the wheel",
    "tensorboard": "serves until it is stopped: tests/cli/test_cockpit.py starts it and reads it",
    "codd demo": "serves until it is stopped: tests/demo starts it in a browser",
    "sbatch": "needs a cluster: tests/slurm runs the scripts",
    "scancel": "needs a cluster: tests/slurm signals jobs",
    "hydra/launcher=slurm": "needs a cluster: tests/slurm runs a grid",
    "export": "only prepares the download after it",
    "hf download": "needs the Hub",
    "codd lm-eval --config": "needs the Hub: tests/cli/test_lm_eval_command.py checks what the names set",
    "--tasks TASK": "leaves the task open; the one of docs/lm_eval.md runs",
    "backbone=llada_8b": "needs the Hub and a GPU: tests/cli/test_paper_experiments.py composes it and runs it small",
    "codd evaluate EXPERIMENT data=gsm8k": "needs the Hub",
    "laptop": "needs the Hub: tests/cli/test_laptop.py runs it on a tiny checkpoint",
    "backbone.path_or_repo=RUN/backbone": "needs a backbone that was trained: the command before it trains one",
    "--backbone RUN/backbone": "needs what a command before it trained",
    "codd evaluate parallelbench": "needs a clone and a GPU: tests/tasks runs it on a clone of our own",
}
ALL = [(page, command) for page in PAGES for command in shown_commands(page)]


def reason_not_to_run(command: str) -> str | None:
    """The words of `NOT_RUN` that a command holds."""
    return next((words for words in NOT_RUN if re.search(rf"(^|\s){re.escape(words)}(\s|$)", command)), None)


def is_slow(page: Path, command: str) -> bool:
    """All but the README's single runs: the start of most readers."""
    several = re.search(r"\s-m(\s|$)|devices=2|lm-eval", command)
    return page.name != "README.md" or several is not None


def runs() -> Iterator[object]:
    seen = set()
    for page, command in ALL:
        if command not in seen and reason_not_to_run(command) is None:
            seen.add(command)
            marks = [pytest.mark.slow] if is_slow(page, command) else []
            yield pytest.param(command, id=f"{page.stem}-{command[:70]}", marks=marks)


def test_commands_are_found() -> None:
    assert len(ALL) > 60


@pytest.mark.parametrize("words", NOT_RUN)
def test_what_is_not_run_is_shown_somewhere(words: str) -> None:
    assert words in {reason_not_to_run(command) for _, command in ALL}


def test_the_targets_that_are_shown_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {command.split()[1] for _, command in ALL if command.startswith("make ")}
    assert {"quickstart", "test", "lint", "docs"} <= shown <= targets


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the README has it: one finished run, and files to read."""
    folder = tmp_path_factory.mktemp("reader")
    circuit = HMM(4, 16, 8)
    circuit.reset_parameters(torch.Generator().manual_seed(0))
    save_jpc(circuit, folder / "published.jpc")
    problems = [
        (f"Ada has {i} and gets {i + 1}.", f"{i} + {i + 1} = {2 * i + 1}\n#### {2 * i + 1}") for i in range(100)
    ]
    code = {"code": "def f():\n    return 1", "test_list": ["assert f() == 1"], "test_setup_code": ""}
    tasks = [*range(11, 15), *range(511, 515), *range(601, 649)]
    chats = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in problems
    ]
    rows = {
        "gsm8k_train": [{"question": asked, "answer": answer} for asked, answer in problems[4:]],
        "gsm8k_test": [{"question": asked, "answer": answer} for asked, answer in problems[:4]],
        "mbpp": [{"task_id": i, "text": f"Write f, number {i}.", **code} for i in tasks],
        "talk": chats[4:],
        "held_out": chats[:4],
        "prompts": [{"prompt": asked} for asked, _ in problems[:2]],
        "problems": [{"q": asked, "a": answer} for asked, answer in problems[:2]],
    }
    for name, entries in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    task = {
        "task": "my_task",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "problems.jsonl"}, "cache_dir": "cache"},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
    }
    (folder / "my_task.yaml").write_text(json.dumps(task))  # JSON is YAML
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(tiny(["train", "quickstart", f"output_dir={RUN}"])) == 0
    return folder


def tiny(arguments: list[str]) -> list[str]:
    """Arguments of `codd` on an experiment, with what makes them cheap."""
    if arguments[0] not in EXPERIMENT_COMMANDS or "--help" in arguments:
        return arguments
    sizes = dict(TINY)
    for word, more in BESIDES.items():
        sizes |= more if word in arguments else {}
    shown = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in sizes:
            smaller = value.isdigit() and sizes[key].isdigit() and int(sizes[key]) < int(value)
            shown.append(f"{key}={sizes.pop(key)}" if smaller else argument)
            sizes.pop(key, None)
        else:
            shown.append(argument)
    return [*shown, *(f"{key}={value}" for key, value in sizes.items())]


def filled_in(word: str) -> str:
    """A word of a command without what its page leaves open."""
    return re.sub(rf"\b({'|'.join(OPEN)})\b", lambda found: OPEN[found.group()], word)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("command", list(runs()))
def test_a_command_of_the_documentation_runs(
    command: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    program, *arguments = [filled_in(word) for word in words_of(re.sub(r"\s>\s.*", "", command))]
    if program == "torchrun":  # with as many processes as there are cores here
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        _, _, *rest = arguments
        done = subprocess.run([*start, *rest[:2], *tiny(rest[2:])], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    assert program == "codd", f"neither run nor listed in NOT_RUN: {command}"
    if "decoding.tuned=true" in command:  # chosen by the command before it
        assert main(tiny(["tune", *arguments[1:3]])) == 0
    if arguments[0] == "train" and "cache.path=outputs/one_step_evidence" in arguments:  # written by the command before
        assert main(tiny(["cache", *arguments[1:]])) == 0
    if "FINGERPRINT" in command:
        assert main(tiny(["cache", "smoke"])) == 0
        (cache,) = Path("outputs/cache").iterdir()
        arguments = [word.replace("smoke-FINGERPRINT", cache.name) for word in arguments]
    assert main(tiny(arguments)) == 0


def test_every_callback_is_documented_with_what_it_shows_and_costs() -> None:
    page = (ROOT / "docs" / "tensorboard.md").read_text()
    what, shows, costs = re.split(r"^## .*$", page, flags=re.MULTILINE)[:3]
    folder = ROOT / "codd_lightning" / "configs" / "callbacks"
    callbacks = {file.stem for file in folder.glob("*.yaml")} - {"cockpit", "none"}
    for section in (what, costs):
        in_rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", section, re.MULTILINE))))
        assert in_rows == callbacks
    pictures = re.findall(r"\]\((figures/\S+\.png)\)", shows)
    assert len(set(pictures)) == len(callbacks)
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


def test_the_examples_of_how_to_add_a_part_run() -> None:
    known = dict(FAMILIES), dict(PROPOSALS), dict(REMASKING)
    names: dict[str, object] = {}
    try:
        for number, body in enumerate(blocks(ROOT / "docs" / "extending.md", "python"), 1):
            exec(compile(body, f"docs/extending.md, block {number}", "exec"), names)
    finally:
        for table, before in zip((FAMILIES, PROPOSALS, REMASKING), known, strict=True):
            table.clear()
            table.update(before)
