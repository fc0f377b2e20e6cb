"""The paper's protocols: exactly what the backbone is asked in each, rendered by lm-eval from problems of our own."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks._yaml_loader import load_yaml

from codd_lightning.cli.lm_eval import PROTOCOLS
from codd_lightning.evaluation.lm_eval import CoddLM
from codd_lightning.evaluation.math_grade import math_verify

STOCK = Path(lm_eval.__file__).parent / "tasks"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if not loop.last or add_generation_prompt %}<end>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REASON = (
    "You are a helpful assistant. Justify your final answer by first explaining your step-by-step derivation or "
    "reasoning. Conclude by presenting the final answer in the format: "
)


@pytest.fixture
def lm() -> CoddLM:
    lm = CoddLM(steps=64)
    lm.tokenizer.chat_template = CHAT
    return lm


def requested(lm: CoddLM, protocol: str, task: dict[str, Any], problem: dict[str, Any], folder: Path) -> Any:
    """The only request of a task, set up as `codd lm-eval --config PROTOCOL` does."""
    config = EvaluatorConfig.from_config(PROTOCOLS / f"{protocol}.yaml")
    assert config.model == "codd"
    assert config.tasks == [task["task"]]
    file = folder / "problem.jsonl"
    file.write_text(json.dumps(problem) + "\n")
    splits = {"training_split": None, "validation_split": None, "fewshot_split": None, "test_split": "test"}
    kwargs = {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")}
    local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    made = ConfigurableTask(config={**task, **splits, **local})
    made.set_config(key="generation_kwargs", value=config.gen_kwargs, update=True)
    made.set_config(key="num_fewshot", value=config.num_fewshot)
    made.build_all_requests(
        system_instruction=config.system_instruction,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=True,
        chat_template=lm.apply_chat_template,
        tokenizer_name=lm.tokenizer_name,
    )
    (request,) = made.instances
    return request


def test_gsm8k(lm: CoddLM, tmp_path: Path) -> None:
    task = load_yaml(STOCK / "gsm8k" / "gsm8k.yaml")
    assert [kind["name"] for kind in task["filter_list"]] == ["strict-match", "flexible-extract"]
    problem = {"question": "Ada has 3 apples and buys 2. How many?", "answer": "3 + 2 = 5\n#### 5"}
    request = requested(lm, "gsm8k", task, problem, tmp_path)
    assert request.args[0] == (
        "<system>You are a helpful assistant.<end>\n"
        "<user>Question: Ada has 3 apples and buys 2. How many?\nAnswer:<end>\n<assistant>"
    )
    assert request.args[1]["max_gen_toks"] == 512
    assert request.args[1]["until"] == ["Question:", "</s>", "<|im_end|>"]


def test_math500(lm: CoddLM, tmp_path: Path) -> None:
    task = load_yaml(PROTOCOLS / "tasks" / "math500.yaml")
    problem = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "answer": "2"}
    request = requested(lm, "math500", task, problem, tmp_path)
    assert request.args[0] == (
        f"<system>{REASON}boxed{{ANSWER}}.<end>\n<user>Problem:\nWhat is $1+1$?\n\nSolution:<end>\n<assistant>"
    )
    assert request.args[1] == {"until": ["Problem:"], "do_sample": False, "max_gen_toks": 512}


def test_math500_asks_what_lm_evals_own_task_asks() -> None:
    stock = (STOCK / "minerva_math" / "utils.py").read_text()
    assert 'return "Problem:" + "\\n" + doc["problem"] + "\\n\\n" + "Solution:"' in stock
    ours = load_yaml(PROTOCOLS / "tasks" / "math500.yaml")
    theirs = load_yaml(STOCK / "minerva_math" / "minerva_math500.yaml", resolve_func=False)
    for name in ("dataset_path", "dataset_name", "test_split", "output_type"):
        assert ours[name] == theirs[name]
    assert ours["generation_kwargs"]["until"] == theirs["generation_kwargs"]["until"]


@pytest.mark.parametrize(
    ("response", "right"),
    [("so the answer is $\\boxed{\\frac{1}{2}}$.", 1), ("It is $0.5$", 1), ("\\boxed{2}", 0), ("", 0)],
)
def test_math500_is_graded_by_math_verify(response: str, right: int) -> None:
    assert math_verify({"solution": "Half: $\\boxed{\\frac12}$"}, [response]) == {"math_verify": right}


def test_gpqa(lm: CoddLM, tmp_path: Path) -> None:
    task = load_yaml(STOCK / "gpqa" / "generative" / "gpqa_main_generative_n_shot.yaml")
    problem = {"Question": "Which is lightest?", "Correct Answer": "H", "Incorrect Answer 1": "He"}
    problem |= {"Incorrect Answer 2": "Li", "Incorrect Answer 3": "Be"}
    request = requested(lm, "gpqa", task, problem, tmp_path)
    choices = "\n".join(f"({'ABCD'[i]}) {request.doc[f'choice{i + 1}']}" for i in range(4))
    assert sorted(request.doc["choices"]) == ["Be", "H", "He", "Li"]
    assert request.args[0] == (
        f"<system>{REASON}(LETTER).\n\nHere are some example questions from experts. Answer the final question "
        "yourself, following the format of the previous questions exactly.\n<end>\n"
        f"<user>Question: Which is lightest?\nChoices:\n{choices}\nAnswer:<end>\n<assistant>"
    )
    assert request.args[1]["max_gen_toks"] == 512


def test_mbpp(lm: CoddLM, tmp_path: Path) -> None:
    task = load_yaml(STOCK / "mbpp" / "mbpp_instruct.yaml", resolve_func=False)
    for downloads in ("metric_list", "filter_list", "fewshot_config"):  # what runs programs comes from the Hub
        del task[downloads]
    problem = {"text": "Write a function that adds.", "code": "", "task_id": 11}
    problem["test_list"] = ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(2, 2) == 4"]
    request = requested(lm, "mbpp", {**task, "metric_list": [{"metric": "bypass"}]}, problem, tmp_path)
    assert request.args[0] == (
        "<system>You are a helpful assistant.<end>\n"
        "<user>You are an expert Python programmer, and here is your task:\nWrite a function that adds.\n"
        "Your code should pass these tests:\nassert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(2, 2) == 4<end>\n"
        "<assistant>\n```python\n"
    )
    assert request.args[1]["max_gen_toks"] == 512


def test_no_protocol_allows_to_run_programs_by_itself() -> None:
    assert not EvaluatorConfig.from_config(PROTOCOLS / "mbpp.yaml").confirm_run_unsafe_code
