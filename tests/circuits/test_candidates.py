"""Evidence that rules out all but K tokens: every query is that of dense evidence with zeros elsewhere."""

import dataclasses

import pytest
import torch

from codd_lightning.circuits import Evidence

from .structures import STRUCTURES

LENGTH, VOCAB, TOP_K = 5, 12, 4


@pytest.fixture(params=[3, VOCAB], ids=["mask-inside", "mask-outside"])
def scene(request: pytest.FixtureRequest) -> tuple[Evidence, Evidence]:
    """Evidence with candidates, and the same spelt out."""
    mask = request.param
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, LENGTH, VOCAB, generator=generator, dtype=torch.float64)
    tokens = torch.full((3, LENGTH), mask)
    tokens[1, 2], tokens[2, 0] = 5, 7
    cut = Evidence.from_logits(logits, tokens, mask, top_k=TOP_K, tail=False)
    weights = torch.zeros(3, LENGTH, VOCAB, dtype=torch.float64)
    assert cut.token_ids is not None
    weights.scatter_(-1, cut.token_ids, cut.weights)
    return cut, dataclasses.replace(cut, weights=weights, token_ids=None)


@pytest.fixture(params=STRUCTURES)
def circuit(request: pytest.FixtureRequest):
    torch.manual_seed(1)
    return STRUCTURES[request.param](3, VOCAB, LENGTH).double()


def test_candidates_are_the_most_probable_tokens_and_never_the_mask(scene: tuple[Evidence, Evidence]) -> None:
    cut, _ = scene
    assert cut.candidates is not None
    assert cut.candidates.shape == (3, LENGTH, TOP_K)
    assert (cut.weights[cut.soft] > 0).all()
    assert cut.tail is None


def test_sums_are_those_of_the_same_evidence_spelt_out(circuit, scene: tuple[Evidence, Evidence]) -> None:
    cut, dense = scene
    torch.testing.assert_close(circuit.log_partition(cut), circuit.log_partition(dense))
    tokens = dense.weights.argmax(-1).where(dense.soft, dense.tokens)
    torch.testing.assert_close(circuit.log_joint(tokens, cut), circuit.log_joint(tokens, dense))
    left_out = dense.weights.argmin(-1).where(dense.soft, dense.tokens)
    assert (circuit.log_joint(left_out, cut) == -torch.inf).all()
    for name, count in circuit.expected_counts(cut).items():
        torch.testing.assert_close(count, circuit.expected_counts(dense)[name])


def test_queries_are_those_of_the_same_evidence_spelt_out(circuit, scene: tuple[Evidence, Evidence]) -> None:
    cut, dense = scene
    here, there = circuit.posterior(cut), circuit.posterior(dense)
    torch.testing.assert_close(here.token_marginals(), there.token_marginals())
    torch.testing.assert_close(here.entropy(), there.entropy())
    torch.testing.assert_close(here.mode().log_prob, there.mode().log_prob)
    assert torch.equal(here.mode().tokens, there.mode().tokens)


def test_over_candidates_is_over_the_vocabulary_read_there(circuit, scene: tuple[Evidence, Evidence]) -> None:
    cut, dense = scene
    here, there = circuit.posterior(cut), circuit.posterior(dense)
    assert cut.candidates is not None
    soft = cut.soft

    def check() -> None:
        found, expected = here.candidate_marginals(), there.token_marginals().gather(-1, cut.candidates)
        torch.testing.assert_close(found[soft], expected[soft])
        positions = torch.tensor([4, 1, 2])
        rows = torch.arange(3)
        torch.testing.assert_close(here.candidate_marginals(positions), expected[rows, positions])
        twice = torch.tensor([2, 0, 2])
        torch.testing.assert_close(here.rows(twice).candidate_marginals()[soft[twice]], expected[twice][soft[twice]])

    check()
    latents = here.sample_latents(torch.Generator().manual_seed(0))
    expected = there.token_distribution(latents).gather(-1, cut.candidates)
    torch.testing.assert_close(here.candidate_distribution(latents)[soft], expected[soft])
    for posterior in (here, there):
        posterior.condition(torch.tensor([0, 2]), torch.tensor([0, 3]), cut.candidates[[0, 2], [0, 3], 1])
    soft = here.evidence.soft
    check()


def test_without_candidates_they_are_the_whole_vocabulary(circuit, scene: tuple[Evidence, Evidence]) -> None:
    _, dense = scene
    posterior = circuit.posterior(dense)
    assert dense.candidates is None
    assert torch.equal(posterior.candidate_marginals(), posterior.token_marginals())
