"""The bundled circuit on the bundled backbone: whole problems in one step a block."""

import pytest
import torch

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import load_circuit
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.tasks import WordedSums

LENGTH = 64
PROBLEMS = 100


def strictly_right(proposal: str) -> int:
    """Of the first test problems, each block filled in one step, from left to right."""
    backbone, circuit, task = load_backbone("codd_tiny"), load_circuit("codd_tiny_one_step"), WordedSums()
    steps = LENGTH // circuit.block_length
    config = DecodingConfig(
        proposal=proposal, remasking="left_to_right", eos="last", steps=steps, max_new_tokens=LENGTH
    )
    problems = [task.example("test", i, 0) for i in range(PROBLEMS)]
    seeds = [torch.Generator().manual_seed(i) for i in range(PROBLEMS)]
    result = generate(backbone, [problem.prompt for problem in problems], config, circuit=circuit, generator=seeds)
    assert max(result.nfe) <= steps
    texts = zip(problems, result.texts or [], result.ended, strict=True)
    return sum(task.grade(problem, text, ended).strict for problem, text, ended in texts)


# 3.7 % of 1,000 are wrong, so that fewer than 90 of 100 right would be met once in 800 draws of problems
@pytest.mark.parametrize(("proposal", "least", "most"), [("any_order", 90, PROBLEMS), ("factorized", 0, 2)])
def test_it_solves_in_one_step_what_the_backbone_alone_does_not(proposal: str, least: int, most: int) -> None:
    assert least <= strictly_right(proposal) <= most


def test_it_has_at_most_a_quarter_of_the_backbones_parameters() -> None:
    backbone, circuit = load_backbone("codd_tiny"), load_circuit("codd_tiny_one_step")
    own, of_backbone = (sum(p.numel() for p in module.parameters()) for module in (circuit, backbone))
    assert 4 * own <= of_backbone
