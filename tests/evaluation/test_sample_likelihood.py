"""How likely samples are to the backbone: sums of the probabilities that it is known to give."""

import pytest
import torch

from codd_lightning.backbones import as_backbone, load_backbone
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.evaluation.sample_likelihood import sample_log_likelihood


def test_independent_tokens_cost_what_each_costs_whatever_the_order(fixed_logits: type) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    logits[:, 4] = -torch.inf  # the mask token
    backbone = as_backbone(fixed_logits(logits, mask_token_id=4))
    responses = [[0, 1, 2, 3], [3, 2]]
    found = sample_log_likelihood(backbone, [[1], [1]], responses, 4)
    log_p = logits.log_softmax(-1)
    expected = [sum(float(log_p[i, token]) for i, token in enumerate(response)) for response in responses]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_text_of_one_token_a_step_is_as_likely_as_its_steps_were() -> None:
    backbone = load_backbone("codd_tiny")
    config = DecodingConfig(max_new_tokens=32, steps=32, block_length=32, stop_at_eos=False, trace=True)
    written = generate(backbone, ["Ada has 3 apples. Ada buys 2. How many apples does Ada have?"], config)
    prompt = written.sequences[0][:-32]
    assert written.trace is not None
    steps = sum(float(step.confidence[step.committed].double().log().sum()) for step in written.trace)
    found = sample_log_likelihood(backbone, [prompt], [written.sequences[0][-32:]], 32)
    assert float(found[0]) == pytest.approx(steps, abs=1e-3)  # surest first is the order of both
