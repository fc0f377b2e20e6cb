"""Circuits that read hidden states inside the loop: what they are given is what the backbone said of the canvas."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM, Context, ContextualHMM, Evidence, SegmentedHMM
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["llada-tiny", "dream-tiny", "a2d-qwen3-tiny"]
PROMPTS = [[5, 6, 7], [8], [9] * 6]
LENGTH = 4


@functools.cache
def backbone(name: str, **options: Any) -> Backbone:
    return load_backbone(FIXTURES / name, **options)


KINDS = ["adapter", "plain", "segmented"]


@functools.cache
def circuit(name: str, kind: str = "adapter") -> HMM:
    """One whose heads say much: without them it decodes other tokens."""
    model = backbone(name)
    torch.manual_seed(0)
    sizes = (8, model.vocab_size, LENGTH, model.hidden_size or 0)
    made: HMM
    if kind == "segmented":
        made = SegmentedHMM(*sizes, stop_token=5, segments=2, stop_states=2, slots=2)
    else:
        made = ContextualHMM(*sizes, roles=2, adapter_width=16 if kind == "adapter" else 0)
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if not parameter_name.endswith("_logits"):
                parameter.normal_(0.0, 0.5)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_step_a_block_is_the_mode_given_the_backbones_states(name: str, kind: str) -> None:
    model, head = backbone(name), circuit(name, kind)
    config = DecodingConfig(steps=2, max_new_tokens=2 * LENGTH, block_length=LENGTH, proposal="map", stop_at_eos=False)
    found = generate(model, PROMPTS, config, head).sequences
    assert found != generate(model, PROMPTS, config.replace(proposal="factorized")).sequences
    for prompt, sequence in zip(PROMPTS, found, strict=True):
        canvas = torch.tensor([prompt + [model.mask_token_id] * 2 * LENGTH])
        for start in (len(prompt), len(prompt) + LENGTH):
            columns = torch.arange(start, start + LENGTH)
            with torch.no_grad():
                said = model.predict(canvas, columns)
                states = model.hidden_states(canvas)[:, :start]
            assert said.hidden is not None
            evidence = Evidence.from_logits(
                said.logits,
                canvas[:, columns],
                model.mask_token_id,
                context=Context(said.hidden, states, torch.ones(1, start, dtype=torch.bool)),
            )
            canvas[:, columns] = head.posterior(evidence).mode().tokens
        assert canvas[0].tolist() == sequence


@pytest.mark.parametrize("proposal", ["any_order", "latent", "map", "best", "marginal"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_rows_text_does_not_depend_on_its_batch(name: str, kind: str, proposal: str) -> None:
    config = DecodingConfig(steps=4, max_new_tokens=2 * LENGTH, block_length=LENGTH, tau=1.0, proposal=proposal)
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    together = generate(backbone(name), PROMPTS, config, circuit(name, kind), seeds)
    for i, prompt in enumerate(PROMPTS):
        alone = generate(backbone(name), [prompt], config, circuit(name, kind), [torch.Generator().manual_seed(i)])
        assert alone.sequences == [together.sequences[i]]


def test_an_exact_cache_keeps_the_states_that_the_circuit_reads() -> None:
    name = "a2d-qwen3-tiny"
    model = backbone(name, attention="block_causal", block_length=LENGTH)
    config = DecodingConfig(steps=6, max_new_tokens=3 * LENGTH, block_length=LENGTH, stop_at_eos=False)
    plain = generate(model, PROMPTS, config, circuit(name)).sequences
    assert generate(model, PROMPTS, config.replace(cache="prefix"), circuit(name)).sequences == plain


@pytest.mark.parametrize("name", NAMES)
def test_a_cached_prefix_gives_the_states_of_the_pass_that_made_it(name: str) -> None:
    config = DecodingConfig(steps=2, max_new_tokens=2 * LENGTH, block_length=LENGTH, stop_at_eos=False)
    plain = generate(backbone(name), PROMPTS, config, circuit(name)).sequences  # one step a block: nothing is stale
    for cache in ("prefix", "dual"):
        assert generate(backbone(name), PROMPTS, config.replace(cache=cache), circuit(name)).sequences == plain
    model, canvas = backbone(name), torch.tensor([PROMPTS[0] + [20, 30] + [backbone(name).mask_token_id] * 3])
    keep = torch.arange(8) < 4
    with torch.no_grad():
        first = model.predict(canvas, torch.tensor([6]), keep=keep)
        again = model.predict(canvas, torch.tensor([6]), first.cache)
    assert first.states is not None
    assert again.states is not None
    torch.testing.assert_close(again.states, first.states, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first.states, model.hidden_states(canvas))


def test_full_diffusion_gives_each_window_what_lies_before_it() -> None:
    name = "a2d-qwen3-tiny"
    config = DecodingConfig(steps=3, max_new_tokens=2 * LENGTH, block_length=LENGTH, paradigm="full", stop_at_eos=False)
    together = generate(backbone(name), PROMPTS, config, circuit(name)).sequences
    alone = [generate(backbone(name), [prompt], config, circuit(name)).sequences[0] for prompt in PROMPTS]
    assert together == alone


def test_backbones_that_do_not_fit_are_refused(fixed_logits: Any) -> None:
    config = DecodingConfig(steps=2, max_new_tokens=LENGTH, block_length=LENGTH)
    head = circuit("a2d-qwen3-tiny")
    bare = fixed_logits(torch.zeros(head.vocab_size), 0, [1])
    with pytest.raises(UserError, match=r"reads hidden states of \d+ numbers, and the backbone gives none"):
        generate(bare, PROMPTS, config, head)
    other = ContextualHMM(8, head.vocab_size, LENGTH, 7, roles=2)
    with pytest.raises(UserError, match="reads hidden states of 7 numbers, and the backbone gives"):
        generate(backbone("a2d-qwen3-tiny"), PROMPTS, config, other)
