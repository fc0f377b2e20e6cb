"""The model that lm-eval sees: its texts, likelihoods, chat templates, costs and errors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, save_circuit
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.errors import UserError
from codd_lightning.evaluation.lm_eval import CoddLM
from codd_lightning.seeding import sample_generator

SMALL = {"max_new_tokens": 32, "block_length": 16, "steps": 8, "mc_samples": 6, "batch_size": 4}
PROMPTS = [
    "Leo has 5 pens. Leo loses 3. How many pens does Leo have?",
    "Ben has 9 lamps. Ben buys 7 more. Eva brings 2 more. How many lamps does Ben have?",
    "Ada has 11 coins. Cleo takes 2. How many coins does Ada have?",
]
GREEDY = {"until": [], "do_sample": False}
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random circuit for the bundled backbone."""

    folder = tmp_path_factory.mktemp("circuit")
    hmm = HMM(3, load_backbone("codd_tiny").vocab_size, 16)
    hmm.reset_parameters(torch.Generator().manual_seed(0))
    save_circuit(hmm, folder)
    return folder


def asked(kind: str, *arguments: Any, repeats: int = 1) -> list[Instance]:
    return [Instance(kind, {}, args, 0, ("task", doc, repeats)) for doc, args in enumerate(arguments)]


def decoded(lm: CoddLM, options: dict[str, Any]) -> list[str]:
    return lm.generate_until(asked("generate_until", *[(prompt, options) for prompt in PROMPTS]), disable_tqdm=True)


def test_texts_are_those_of_generate() -> None:
    config = DecodingConfig(max_new_tokens=32, block_length=16, steps=8)
    expected = generate(load_backbone("codd_tiny"), PROMPTS, config).texts
    assert decoded(CoddLM(**SMALL), GREEDY) == expected


@pytest.mark.parametrize("proposal", ["any_order", "latent"])
def test_sampled_texts_do_not_depend_on_batch_size_or_processes(circuit: Path, proposal: str) -> None:
    options = {**SMALL, "circuit": str(circuit), "proposal": proposal, "tau": 1.0, "temperature": 1.0}
    with pytest.warns(UserWarning, match="greedy decoding has no effect"):
        whole = decoded(CoddLM(**options), GREEDY)
    requests = asked("generate_until", *[(prompt, {"until": []}) for prompt in PROMPTS])
    lm = CoddLM(**{**options, "batch_size": 1})
    with pytest.warns(UserWarning, match="greedy decoding has no effect"):
        dealt = [lm.generate_until(requests[rank::2], disable_tqdm=True) for rank in range(2)]
    assert [dealt[0][0], dealt[1][0], dealt[0][1]] == whole


def test_another_seed_draws_another_text() -> None:
    sampled = {"until": [], "do_sample": True, "temperature": 1.0}
    assert decoded(CoddLM(**SMALL), sampled) != decoded(CoddLM(**SMALL, seed=1), sampled)


def test_repeats_of_a_request_differ_and_padding_repeats_the_last() -> None:
    (request,) = asked("generate_until", (PROMPTS[0], {"until": [], "temperature": 1.0}), repeats=2)
    lm = CoddLM(**SMALL)
    first, second, padding = lm.generate_until([request] * 3, disable_tqdm=True)
    assert first != second
    assert padding == second
    assert len(lm.costs) == 2


def test_the_text_ends_where_the_first_stop_string_begins() -> None:
    lm = CoddLM(**SMALL)
    whole = decoded(lm, GREEDY)
    later, earlier = whole[1][20:24], whole[1][10:14]
    text = decoded(lm, {**GREEDY, "until": [later, earlier, ""]})[1]
    assert text == whole[1][: whole[1].find(earlier)]
    assert decoded(lm, {**GREEDY, "until": earlier})[1] == text


def test_the_tasks_length_is_rounded_up_to_whole_blocks() -> None:
    config = DecodingConfig(max_new_tokens=48, block_length=16, steps=8)
    expected = generate(load_backbone("codd_tiny"), PROMPTS, config).texts
    assert decoded(CoddLM(**SMALL), {**GREEDY, "max_gen_toks": 33}) == expected


def test_a_task_that_samples_sets_the_backbones_temperature() -> None:
    lm = CoddLM(**SMALL)
    config = DecodingConfig(max_new_tokens=32, block_length=16, steps=8, temperature=0.7, top_p=0.9)
    requests = asked("generate_until", (PROMPTS[0], {"do_sample": True, "temperature": 0.7, "top_p": 0.9}))
    purpose = f"lm-eval generate_until task 0 {PROMPTS[0]}"
    generator = [sample_generator(0, 0, 0, purpose)]
    expected = generate(load_backbone("codd_tiny"), PROMPTS[:1], config, generator=generator)
    assert lm.generate_until(requests, disable_tqdm=True) == expected.texts != decoded(lm, GREEDY)[:1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "do_sample=true has no effect without a temperature"),
        ({"do_sample": False, "num_beams": 4}, "num_beams=4 has no effect"),
        ({"do_sample": False, "top_p": 0.9}, r"top_p=0.9 has no effect"),
    ],
)
def test_generation_options_without_effect_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        decoded(CoddLM(**SMALL), options)


@pytest.mark.parametrize("with_circuit", [False, True])
def test_likelihoods_do_not_depend_on_batch_size_or_processes(circuit: Path, with_circuit: bool) -> None:
    options = {**SMALL, **({"circuit": str(circuit)} if with_circuit else {})}
    pairs = [(PROMPTS[0], " Leo owns 2 pens."), (PROMPTS[1], " 18"), ("", PROMPTS[2]), (PROMPTS[2], " Ada has 9.")]
    requests = asked("loglikelihood", *pairs)
    whole = CoddLM(**options).loglikelihood(requests, disable_tqdm=True)
    lm = CoddLM(**{**options, "batch_size": 1})
    dealt = [lm.loglikelihood(requests[rank::2], disable_tqdm=True) for rank in range(2)]
    for found, expected in zip([dealt[0][0], dealt[1][0], dealt[0][1], dealt[1][1]], whole, strict=True):
        assert found[0] == pytest.approx(expected[0], rel=1e-4)
        assert found[1] == expected[1]


def test_what_greedy_decoding_writes_is_greedy_and_nothing_else() -> None:
    lm = CoddLM(**SMALL)
    config = DecodingConfig(max_new_tokens=6, block_length=16, steps=6, stop_at_eos=False)
    backbone = load_backbone("codd_tiny")
    prompt = backbone.tokenizer(PROMPTS[0])["input_ids"]
    text = backbone.tokenizer.decode(generate(backbone, [prompt], config).sequences[0][len(prompt) :])
    requests = asked("loglikelihood", (PROMPTS[0], " " + text), (PROMPTS[0], " 7 7 7 7 7 7"))
    assert [greedy for _, greedy in lm.loglikelihood(requests, disable_tqdm=True)] == [True, False]


def test_a_continuation_without_tokens_is_certain() -> None:
    assert CoddLM(**SMALL).loglikelihood(asked("loglikelihood", (PROMPTS[0], "")), disable_tqdm=True) == [(0.0, True)]


def test_a_rolling_likelihood_is_that_of_the_whole_text() -> None:
    lm = CoddLM(**{**SMALL, "mc_samples": 127})
    (rolling,) = lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("Ada has 11 coins.",)), disable_tqdm=True)
    ((whole, _),) = lm.loglikelihood(asked("loglikelihood", ("", "Ada has 11 coins.")), disable_tqdm=True)
    assert rolling == pytest.approx(whole, rel=1e-6)


def test_a_text_longer_than_the_backbones_positions_is_scored_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoddLM, "max_length", 4)
    lm = CoddLM(**SMALL)
    tokens = lm.tokenizer(PROMPTS[0])["input_ids"]
    requests = asked("loglikelihood_rolling", (PROMPTS[0],))
    (rolling,) = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    windows = range(0, len(tokens), 3)
    assert len(windows) > 2
    texts = [
        (
            lm.tokenizer.decode(tokens[start - 1 : start]) if start else "",
            " " + lm.tokenizer.decode(tokens[start : start + 3]),
        )
        for start in windows
    ]
    lm = CoddLM(**{**SMALL, "mc_samples": 7})
    expected = lm.loglikelihood(asked("loglikelihood", *texts), disable_tqdm=True)
    (exact,) = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    assert exact == pytest.approx(sum(score for score, _ in expected), rel=1e-5)
    assert rolling < 0


def test_long_contexts_lose_their_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoddLM, "max_length", 40)
    lm = CoddLM(**SMALL)
    short = lm.tokenizer.decode(lm.tokenizer(PROMPTS[1])["input_ids"][-8:])
    with pytest.warns(UserWarning, match="lose their beginnings"):
        texts = decoded(lm, GREEDY)
    assert lm.generate_until(asked("generate_until", (short, GREEDY)), disable_tqdm=True) == texts[1:2]
    with pytest.raises(UserError, match="48 tokens do not fit the backbone's 40 positions"):
        decoded(lm, {**GREEDY, "max_gen_toks": 48})


@pytest.fixture
def chatting() -> Iterator[CoddLM]:
    """A model whose tokenizer has a chat template."""
    lm = CoddLM(**SMALL)
    lm.tokenizer.chat_template = CHAT
    yield lm
    lm.tokenizer.chat_template = None


def test_conversations_are_rendered_by_the_tokenizers_template(chatting: CoddLM) -> None:
    history = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert chatting.chat_template(True) == CHAT
    assert chatting.chat_template(False) is None
    assert chatting.apply_chat_template(history) == "[system] S\n[user] Q\n[assistant] "
    begun = [*history, {"role": "assistant", "content": "A"}]
    assert chatting.apply_chat_template(begun, add_generation_prompt=False).endswith("[assistant] A")
    assert chatting.tokenizer_name == "codd_tiny"


def test_a_tokenizer_without_chat_template_is_named() -> None:
    with pytest.raises(UserError, match="codd_tiny has no chat template: leave out --apply_chat_template"):
        CoddLM(**SMALL).apply_chat_template([{"role": "user", "content": "Q"}])


def test_costs_are_counted_and_written_with_the_results(circuit: Path) -> None:
    lm = CoddLM(**SMALL, circuit=str(circuit))
    decoded(lm, GREEDY)
    assert [(cost.task, cost.doc_id) for cost in sorted(lm.costs, key=lambda cost: cost.doc_id)] == [
        ("task", 0),
        ("task", 1),
        ("task", 2),
    ]
    info = json.loads(json.dumps(lm.get_model_info()))["codd"]
    assert info["decoding"]["steps"] == 8
    cost = info["cost"]["task"]
    assert cost["samples"] == 3
    assert cost["nfe"] == sum(cost.nfe for cost in lm.costs) / 3 <= 8
    assert cost["tpf"] == pytest.approx(cost["tokens"] / cost["nfe"])
    assert cost["circuit_calls"] > 0
    assert cost["seconds_per_sample"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 8}, "step is not an option of --model codd; did you mean steps?"),
        ({"system": "S"}, "--system_instruction"),
        ({"steps": "many"}, "steps='many' must be of type int"),
        ({"gamma": True}, "gamma=True must be of type float"),
        ({"steps": 4}, "steps=4 is less than one for each of the 16 blocks"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"mc_samples": 0}, "mc_samples=0 must be at least 1"),
        ({"seed": -1}, r"seed=-1 must lie in \[0, 2\^63\)"),
        ({"proposal": "latent"}, "proposal=latent needs a circuit"),
        ({"backbone": "nowhere"}, "no backbone folder at nowhere"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CoddLM(**arguments)


def test_lm_evals_own_options_count_where_the_arguments_do_not_name_them() -> None:
    lm = CoddLM.create_from_arg_obj({"steps": 16}, {"batch_size": "3", "device": "cpu", "max_batch_size": None})
    assert (lm.options.batch_size, lm.options.device) == (3, "cpu")
    lm = CoddLM.create_from_arg_obj({"batch_size": 5, "device": "cpu"}, {"batch_size": 1, "device": "cuda:0"})
    assert lm.options.batch_size == 5
    with pytest.raises(UserError, match="--batch_size auto"):
        CoddLM.create_from_arg_obj({}, {"batch_size": "auto:4"})


def test_the_first_process_gathers_what_all_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)

    def all_gather_object(values: list[Any], value: Any) -> None:
        values[:] = [value, value]  # the other process has the same

    monkeypatch.setattr("torch.distributed.all_gather_object", all_gather_object)
    for rank in range(2):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        lm = CoddLM(**SMALL)
        decoded(lm, GREEDY)
        assert (lm.rank, lm.world_size) == (rank, 2)
        assert len(lm.costs) == (0 if rank else 2 * len(PROMPTS))
        assert lm.all_gather(torch.tensor(3)).tolist() == [3, 3]
        assert lm.gather_object("x", dst=1) == (["x", "x"] if rank else None)
