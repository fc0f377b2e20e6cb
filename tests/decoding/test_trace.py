"""A trace shows every token once as new, in the step that chose it, and nothing masked in the end."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from codd_lightning.circuits import HMM
from codd_lightning.decoding import DecodingConfig, State, generate, steps_of

LENGTH = 8
NEW = (State.BY_CIRCUIT, State.BY_BACKBONE)


@pytest.mark.parametrize(("proposal", "by"), [("factorized", State.BY_BACKBONE), ("any_order", State.BY_CIRCUIT)])
def test_every_token_is_new_in_one_step_and_kept_from_then_on(
    proposal: str,
    by: State,
    words: PreTrainedTokenizerFast,
    fixed_logits: Callable[..., torch.nn.Module],
    neutral_hmm: Callable[..., HMM],
) -> None:
    vocabulary, mask = len(words), int(words.mask_token_id)  # type: ignore[arg-type]  # one id
    logits = torch.randn(LENGTH, vocabulary, generator=torch.Generator().manual_seed(1))
    logits[:, mask] = -torch.inf
    backbone = fixed_logits(logits, mask, [], words)
    config = DecodingConfig(
        proposal=proposal, steps=4, max_new_tokens=LENGTH, block_length=LENGTH, trace=True, stop_at_eos=False
    )
    circuit = neutral_hmm(2, vocabulary, LENGTH) if proposal == "any_order" else None
    generation = generate(backbone, ["w1 w2", "w3"], config, circuit, torch.Generator().manual_seed(0))
    for row in range(2):
        steps = steps_of(generation, row, backbone)
        assert [sum(cell.state == by for cell in step) for step in steps] == [2, 2, 2, 2]
        assert [sum(cell.state == State.MASKED for cell in step) for step in steps] == [6, 4, 2, 0]
        for position in range(LENGTH):
            states = [step[position].state for step in steps]
            chosen = next(i for i, state in enumerate(states) if state in NEW)
            assert states == [State.MASKED] * chosen + [by] + [State.KEPT] * (3 - chosen)
            assert {step[position].text for step in steps[:chosen]} <= {"·"}
            assert len({step[position].text for step in steps[chosen:]}) == 1
        assert len(steps[-1]) == LENGTH
        assert " ".join(words.convert_ids_to_tokens(generation.sequences[row][-LENGTH:])) == " ".join(
            cell.text for cell in steps[-1]
        )
