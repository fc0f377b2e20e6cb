"""Reinforcement learning of a backbone: diffu-GRPO."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.modules import AdamW, PolicyModule
from codd_lightning.modules.policy_module import clipped_surrogate
from codd_lightning.tasks import Example, Grade

from .helpers import backbone_of, data_of, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

ROWS = [(f"w{i % 5} w{i % 3}", f"w{i % 4}") for i in range(16)]


def module_of(data: TaskDataModule, **options: Any) -> PolicyModule:
    recipe = AdamW(lr=0.01, warmup_steps=0)
    return PolicyModule(backbone_of(), data, recipe, **{"steps_per_block": 2, **options})


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)), dtype=torch.double)


def test_the_surrogate_is_that_of_the_paper_token_by_token() -> None:
    log_probs, before, reference = (-numbers(n, 3).abs()[:3] for n in (3, 4, 5))
    advantages = torch.tensor([0.75, -0.25, 0.0], dtype=torch.double)
    written = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    gain, divergence = 0.0, 0.0
    for row in range(3):
        length = int(written[row].sum())
        for column in range(length):
            ratio = math.exp(log_probs[row, column] - before[row, column])
            clipped = min(max(ratio, 0.8), 1.2)
            gain += min(ratio * advantages[row], clipped * advantages[row]) / length / 3
            r = math.exp(reference[row, column] - log_probs[row, column])
            divergence += (r - math.log(r) - 1) / length / 3
    found = clipped_surrogate(log_probs, before, reference, advantages, written, 0.2)
    torch.testing.assert_close(found, (torch.as_tensor(gain).double(), torch.as_tensor(divergence).double()))


def test_its_gradient_is_the_policy_gradient_at_first_and_none_beyond_the_clip() -> None:
    log_probs = -numbers(2, 3).abs()
    log_probs.requires_grad_()
    advantages = torch.tensor([0.5, -0.5], dtype=torch.double)
    written = torch.ones(2, 3, dtype=torch.bool)
    here = log_probs.detach()
    gain, divergence = clipped_surrogate(log_probs, here, here, advantages, written, 0.2)
    slope = torch.autograd.grad(gain, log_probs, retain_graph=True)[0]
    torch.testing.assert_close(slope, advantages[:, None] * written / 6)
    assert float(divergence.detach()) == 0.0
    gain, _ = clipped_surrogate(log_probs, here - advantages[:, None], here, advantages, written, 0.2)
    assert not torch.autograd.grad(gain, log_probs)[0].any()


def test_rollouts_are_graded_and_set_against_their_group(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    data = data_of(listed_task(train=ROWS), words, 4)
    module = module_of(data, group_size=3, inner_updates=2, prompt_masking=0.5)
    dataset = data.dataset("train")
    batch = data.collate([dataset[i] for i in (5, 2)])
    rollouts = module._rollouts(batch, "train", 0, 3)
    ends = rollouts.written.sum(1) - 1
    said = [row[: end + 1].tolist() for row, end in zip(rollouts.tokens, ends, strict=True)]
    right = [dataset[i].response[:2] for i in (5, 5, 5, 2, 2, 2)]
    assert rollouts.rewards.tolist() == [float(one == other) for one, other in zip(said, right, strict=True)]
    torch.testing.assert_close(rollouts.advantages.view(2, 3).sum(1), torch.zeros(2))
    assert not rollouts.prompt_masks[..., rollouts.canvas.prompt_length :].any()
    assert not (rollouts.prompt_masks & ~rollouts.canvas.attention_mask).any()
    assert not torch.equal(rollouts.prompt_masks[0], rollouts.prompt_masks[1])
    again = module._rollouts(batch, "train", 0, 3)
    assert torch.equal(again.tokens, rollouts.tokens)
    other = module._rollouts(batch, "train", 1, 3)
    assert not torch.equal(other.tokens, rollouts.tokens)
    alone = module._rollouts(data.collate([dataset[2]]), "train", 0, 3)
    assert torch.equal(alone.tokens, rollouts.tokens[3:])


def test_log_probabilities_are_those_of_one_pass_over_a_masked_response(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    data = data_of(listed_task(train=ROWS), words, 4)
    module = module_of(data, group_size=2, inner_updates=1, prompt_masking=0.5)
    rollouts = module._rollouts(data.collate([data.dataset("train")[3]]), "train", 0, 2)
    found = module._log_probs(module.backbone, rollouts, 0)
    mask = module.backbone.mask_token_id
    for row in range(2):
        hidden = rollouts.prompt_masks[0, row, : rollouts.canvas.prompt_length].tolist()
        prompt = [mask if h else t for h, t in zip(hidden, data.dataset("train")[3].prompt, strict=True)]
        logits = module.backbone(torch.tensor([prompt + [mask] * 8]))[0, len(prompt) :]
        expected = logits.log_softmax(-1)[range(8), rollouts.tokens[row]]
        torch.testing.assert_close(found[row], expected)


def test_training_earns_more_reward(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> None:
    class Mentions(listed_task):
        def grade(self, example: Example, response: str, ended: bool) -> Grade:
            return Grade("w3" in response.split(), False)

    data = data_of(Mentions(train=ROWS, validation=ROWS), words, 4)
    module = module_of(data, prompt_masking=0.0, kl=0.0)
    before = trainer_of().validate(module, datamodule=data, verbose=False)[0]["validation/error_rate"]
    trainer_of(max_epochs=24).fit(module, datamodule=data)
    after = trainer_of().validate(module, datamodule=data, verbose=False)[0]["validation/error_rate"]
    assert after < before - 0.5


@pytest.mark.parametrize(
    "options", [{"group_size": 1}, {"temperature": 0.0}, {"remasking": "magic"}, {"steps_per_block": 5}]
)
def test_what_cannot_be_is_refused_by_its_name(
    options: dict[str, Any], listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    data = data_of(listed_task(train=ROWS), words, 4)
    with pytest.raises(UserError, match=rf"objective\.{next(iter(options))}"):
        module_of(data, **options)
