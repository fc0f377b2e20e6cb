import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from codd_lightning.circuits import HMM, CircuitError, Evidence, EvidenceError

from .enumeration import Model, agreeing, log, tuples
from .oracles import circuit_of, evidence_of, oracle
from .strategies import SETTINGS, Case, cases, make_case, model_of, random_hmm, tiny_hmms

CLOSE = {"atol": 1e-9, "rtol": 1e-9}


def log_joints(case: Case, row: int) -> Tensor:
    """What the circuit says of every completion of one row, each alone in its batch."""
    completions = torch.from_numpy(tuples(case.hmm.vocab_size, case.evidence.length))
    evidence = case.evidence.rows(torch.full((len(completions),), row))
    return case.hmm.log_joint(completions, evidence)


# Sums over all completions


@SETTINGS
@given(case=cases())
def test_log_partition_is_the_sum_over_all_completions(case: Case) -> None:
    expected = [math.log(case.table(row).sum()) for row in range(case.evidence.batch_size)]
    assert_close(case.hmm.log_partition(case.evidence), torch.tensor(expected, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("top_k", range(1, 6))
def test_log_partition_is_the_sum_over_all_completions_for_every_top_k(top_k: int, homogeneous: bool) -> None:
    hmm = random_hmm(num_states=3, vocab_size=5, block_length=3, homogeneous=homogeneous, seed=top_k)
    case = make_case(hmm, batch_size=3, observed=0.2, absent=0.2, top_k=top_k, keep=True, temperature=0.7)
    expected = [math.log(case.table(row).sum()) for row in range(3)]
    assert_close(hmm.log_partition(case.evidence), torch.tensor(expected, dtype=torch.float64), **CLOSE)


def test_float32_circuits_agree_with_enumeration_to_single_precision() -> None:
    hmm = random_hmm(num_states=3, vocab_size=4, block_length=4).float()
    case = make_case(hmm, batch_size=3, top_k=2)
    expected = [math.log(case.table(row).sum()) for row in range(3)]
    found = hmm.log_partition(case.evidence)
    assert found.dtype == torch.float32
    assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=1e-5)


@SETTINGS
@given(hmm=tiny_hmms())
def test_log_prob_is_the_sum_over_all_latent_paths(hmm: HMM) -> None:
    for length in range(1, hmm.block_length + 1):
        expected = log(model_of(hmm).table(np.ones((length, hmm.vocab_size))).sum(1))
        found = hmm.log_prob(torch.from_numpy(tuples(hmm.vocab_size, length)))
        assert_close(found, torch.from_numpy(expected), **CLOSE)


@SETTINGS
@given(hmm=tiny_hmms())
def test_probabilities_of_all_completions_sum_to_one(hmm: HMM) -> None:
    for length in range(1, hmm.block_length + 1):
        found = hmm.log_prob(torch.from_numpy(tuples(hmm.vocab_size, length)))
        assert found.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)


@SETTINGS
@given(case=cases(absent=False))
def test_log_joint_sums_to_the_partition_function(case: Case) -> None:
    log_z = case.hmm.log_partition(case.evidence)
    for row in range(case.evidence.batch_size):
        assert log_joints(case, row).logsumexp(0).item() == pytest.approx(log_z[row].item(), abs=1e-9)


@SETTINGS
@given(case=cases())
def test_log_joint_is_the_mass_of_the_completion_with_absent_positions_summed_out(case: Case) -> None:
    sequences = tuples(case.hmm.vocab_size, case.evidence.length)
    for row in range(case.evidence.batch_size):
        mass, present = case.table(row).sum(1), ~case.absent[row]
        expected = [mass[agreeing(sequences, sequence, present)].sum() for sequence in sequences]
        assert_close(log_joints(case, row), torch.from_numpy(log(np.array(expected))), **CLOSE)


@SETTINGS
@given(case=cases())
def test_log_joint_of_some_positions_is_their_marginal(case: Case) -> None:
    tokens = case.random_tokens()
    where = torch.rand(case.shape, generator=torch.Generator().manual_seed(case.seed)) < 0.5
    sequences = tuples(case.hmm.vocab_size, case.evidence.length)
    expected = []
    for row in range(case.evidence.batch_size):
        asked = where[row].numpy() & ~case.absent[row]
        expected.append(case.table(row).sum(1)[agreeing(sequences, tokens[row].numpy(), asked)].sum())
    assert_close(case.hmm.log_joint(tokens, case.evidence, where), torch.from_numpy(log(np.array(expected))), **CLOSE)


@SETTINGS
@given(case=cases(absent=False))
def test_conditional_likelihood_is_the_product_of_one_step_conditionals(case: Case) -> None:
    tokens = torch.where(case.evidence.observed, case.evidence.tokens, case.random_tokens())
    total = torch.zeros(case.evidence.batch_size, dtype=torch.float64)
    evidence = case.evidence
    for position in range(evidence.length):
        marginals = case.hmm.posterior(evidence).token_marginals()[:, position]
        total += marginals.gather(-1, tokens[:, position, None]).squeeze(-1).log()
        here = torch.zeros_like(evidence.observed)
        here[:, position] = True
        evidence = evidence.clamp(tokens, here)
    cll = case.hmm.log_joint(tokens, case.evidence) - case.hmm.log_partition(case.evidence)
    assert_close(cll, total, **CLOSE)


def test_log_joint_serves_many_completions_with_the_evidence_of_one_row() -> None:
    case = make_case(random_hmm(3, 4, 3), batch_size=1, absent=0.3, potentials=True, seed=5)
    completions = torch.from_numpy(tuples(4, 3))
    assert_close(case.hmm.log_joint(completions, case.evidence), log_joints(case, 0), **CLOSE)


# Reference values


@pytest.fixture(scope="module")
def brute_force() -> dict[str, Tensor]:
    return oracle("bruteforce_n3_v4_l4")


def test_likelihoods_match_the_brute_force_reference(brute_force: dict[str, Tensor]) -> None:
    hmm = circuit_of(brute_force, block_length=4)
    assert_close(hmm.log_prob(brute_force["seqs"]), brute_force["p_omega"].log(), atol=1e-12, rtol=1e-12)
    assert_close(hmm.log_prob(brute_force["x"]), brute_force["log_p_x"], atol=1e-12, rtol=1e-12)


def test_conditional_likelihood_matches_the_brute_force_reference(brute_force: dict[str, Tensor]) -> None:
    hmm = circuit_of(brute_force, block_length=4)
    evidence = evidence_of(brute_force)
    log_z = hmm.log_partition(evidence)
    assert_close(log_z, brute_force["log_Z"], atol=1e-12, rtol=1e-12)
    cll = hmm.log_joint(brute_force["x"], evidence) - log_z
    assert_close(cll, brute_force["global_cll"], atol=1e-12, rtol=1e-12)


def test_known_tokens_count_one_where_the_brute_force_reference_weighs_them(brute_force: dict[str, Tensor]) -> None:
    hmm, observed = circuit_of(brute_force, block_length=4), brute_force["mask"]
    weighed = hmm.log_joint(brute_force["x"], evidence_of(brute_force), where=observed)
    assert_close(weighed, brute_force["log_Z_observed"], atol=1e-12, rtol=1e-12)
    weights = brute_force["logw"].gather(-1, brute_force["x"][..., None]).squeeze(-1).masked_fill(~observed, 0.0)
    known = hmm.log_partition(evidence_of(brute_force, observed))
    assert_close(known, brute_force["log_Z_observed"] - weights.sum(-1), atol=1e-12, rtol=1e-12)


def test_plain_likelihood_matches_the_reference() -> None:
    hmm = circuit_of(oracle("jpc/hom_n16_v50_l8"), block_length=8)
    values = oracle("hom_n16_v50_l8")
    assert_close(hmm.log_prob(values["x"]), values["ref64_ll.ll"], atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("hom_n16_v50_l8_ext", "jpc/hom_n16_v50_l8_ext"), ("inhom_n16_v50_l8_ext", "jpc/inhom_n16_v50_l8")],
)
def test_likelihoods_under_soft_evidence_match_the_reference(name: str, parameters: str) -> None:
    hmm, values = circuit_of(oracle(parameters), block_length=8), oracle(name)
    evidence = evidence_of(values)
    log_z, joint = hmm.log_partition(evidence), hmm.log_joint(values["x"], evidence)
    assert_close(log_z, values["ref64_normalizing_constant.ll"], atol=1e-5, rtol=0.0)
    assert_close(joint, values["ref64_unnormalized_ll.ll"], atol=1e-5, rtol=0.0)
    assert_close(joint - log_z, values["ref64_global_cll"], atol=1e-5, rtol=0.0)
    marginal = hmm.log_joint(values["x"], evidence, where=values["mask"])
    assert_close(marginal, values["ref64_unnormalized_ll_masked.ll"], atol=1e-5, rtol=0.0)


# Closed forms


def test_a_circuit_without_preferences_leaves_the_backbone_as_it_is() -> None:
    num_states, vocab_size = 4, 6
    hmm = random_hmm(num_states, vocab_size, 5)
    with torch.no_grad():
        hmm.emission_logits.zero_()
    case = make_case(hmm, batch_size=3)
    tokens = torch.where(case.evidence.observed, case.evidence.tokens, case.random_tokens())
    log_p = case.arguments["logits"].log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    expected = log_p.masked_fill(case.evidence.observed, 0.0).sum(-1)
    cll = hmm.log_joint(tokens, case.evidence) - hmm.log_partition(case.evidence)
    assert_close(cll, expected, **CLOSE)


def test_identical_emission_rows_make_the_product_factorize() -> None:
    row = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    hmm = random_hmm(3, 4, 4)
    with torch.no_grad():
        hmm.emission_logits.copy_(row.log()[:, None].expand(1, 4, 3))
    case = make_case(hmm, batch_size=3)
    tokens = torch.where(case.evidence.observed, case.evidence.tokens, case.random_tokens())
    weighed = row * case.arguments["logits"].softmax(-1)
    conditional = (weighed / weighed.sum(-1, keepdim=True)).gather(-1, tokens[..., None]).squeeze(-1)
    expected = conditional.log().masked_fill(case.evidence.observed, 0.0).sum(-1)
    cll = hmm.log_joint(tokens, case.evidence) - hmm.log_partition(case.evidence)
    assert_close(cll, expected, **CLOSE)


def test_a_single_state_makes_tokens_independent() -> None:
    hmm = random_hmm(1, 5, 3, homogeneous=False)
    tokens = torch.from_numpy(tuples(5, 3))
    emission = model_of(hmm).emission[:, 0]  # (L, V)
    expected = sum(np.log(emission[i, tokens[:, i].numpy()]) for i in range(3))
    assert_close(hmm.log_prob(tokens), torch.from_numpy(np.asarray(expected)), **CLOSE)


def test_trailing_absent_positions_are_a_shorter_block() -> None:
    case = make_case(random_hmm(3, 4, 6), batch_size=2, seed=3)
    absent = torch.zeros(2, 6, dtype=torch.bool)
    absent[:, 4:] = True
    padded = Evidence.from_logits(**{**case.arguments, "absent": absent})
    tokens = case.arguments["tokens"][:, :4]
    shorter = Evidence.from_logits(case.arguments["logits"][:, :4], tokens, case.arguments["mask_token_id"])
    assert_close(case.hmm.log_partition(padded), case.hmm.log_partition(shorter), **CLOSE)


def test_probabilities_are_the_ones_given() -> None:
    initial, transition = torch.tensor([0.25, 0.75]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    emission = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.4, 0.6]])
    hmm = HMM.from_probabilities(initial, transition, emission, block_length=4)
    for found, given_one in zip(hmm.probabilities(), (initial, transition, emission), strict=True):
        assert_close(found, given_one)
    places, steps = emission.expand(4, 2, 3), transition.expand(3, 2, 2)
    hmm = HMM.from_probabilities(initial, steps, places, block_length=4)
    for found, given_one in zip(hmm.probabilities(), (initial, steps, places), strict=True):
        assert_close(found, given_one)


def test_given_probabilities_are_fixed() -> None:
    assert not any(p.requires_grad for p in two_state_hmm().parameters())


@pytest.mark.parametrize("homogeneous", [True, False])
def test_probabilities_rebuild_the_circuit(homogeneous: bool) -> None:
    hmm = random_hmm(3, 4, 5, homogeneous)
    again = HMM.from_probabilities(*hmm.probabilities(), block_length=5)
    tokens = torch.from_numpy(tuples(4, 5))
    assert_close(again.log_prob(tokens), hmm.log_prob(tokens).detach(), **CLOSE)


def test_parameters_start_where_the_generator_says() -> None:
    first, second, third = (random_hmm(3, 4, 5, seed=seed).emission_logits for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


# Zeros, extremes, lengths


def two_state_hmm(dtype: torch.dtype = torch.float64) -> HMM:
    """State 0 emits token 0 or 1 and never leaves; state 1 emits token 1 or 2; no state emits token 3."""
    return HMM.from_probabilities(
        initial=torch.tensor([0.5, 0.5], dtype=dtype),
        transition=torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=dtype),
        emission=torch.tensor([[0.6, 0.4, 0.0, 0.0], [0.0, 0.3, 0.7, 0.0]], dtype=dtype),
        block_length=3,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_completions_score_minus_infinity_and_the_others_what_they_should(dtype: torch.dtype) -> None:
    hmm = two_state_hmm(dtype)
    initial, transition, emission = (p.double().numpy() for p in hmm.probabilities())
    model = Model(initial, transition[None].repeat(2, axis=0), emission[None].repeat(3, axis=0))
    expected = torch.from_numpy(log(model.table(np.ones((3, 4))).sum(1)))
    found = hmm.log_prob(torch.from_numpy(tuples(4, 3)))
    assert_close(found, expected.to(dtype), atol=1e-5, rtol=1e-5)
    assert found.isneginf().sum() > 10


def test_an_impossible_row_leaves_the_gradients_of_the_others_finite() -> None:
    hmm = two_state_hmm().requires_grad_(True)
    both = hmm.log_prob(torch.tensor([[0, 1, 1], [0, 2, 1]]))
    assert both[1] == -torch.inf
    found = torch.autograd.grad(both[0], list(hmm.parameters()))
    alone = torch.autograd.grad(hmm.log_prob(torch.tensor([[0, 1, 1]]))[0], list(hmm.parameters()))
    for here, there in zip(found, alone, strict=True):
        assert_close(here, there, **CLOSE)


def test_evidence_against_the_circuit_scores_minus_infinity() -> None:
    hmm = two_state_hmm()
    tokens = torch.tensor([[1, 4, 1], [0, 4, 2]])  # after token 0 never a 2
    evidence = Evidence.from_logits(torch.zeros(2, 3, 4), tokens, mask_token_id=4)
    completion = torch.tensor([[1, 1, 1], [0, 1, 2]])
    found = hmm.log_joint(completion, evidence)
    assert found[0].isfinite()
    assert found[1] == -torch.inf


def test_a_completion_against_known_tokens_scores_minus_infinity() -> None:
    hmm = random_hmm(2, 3, 2)
    evidence = Evidence.from_logits(torch.zeros(2, 2, 3), torch.tensor([[1, 3], [1, 3]]), mask_token_id=3)
    found = hmm.log_joint(torch.tensor([[1, 2], [0, 2]]), evidence)
    assert found[0].isfinite()
    assert found[1] == -torch.inf


@pytest.mark.parametrize("probability", [1e-30, 1e-40])  # the second is subnormal in float32
def test_almost_impossible_tokens_keep_their_likelihood(probability: float) -> None:
    hmm = HMM.from_probabilities(
        initial=torch.tensor([1.0, 0.0]),
        transition=torch.eye(2),
        emission=torch.tensor([[1.0, probability], [0.0, 1.0]]),
        block_length=3,
    )
    found = hmm.log_prob(torch.tensor([[0, 1, 0]])).item()
    assert found == pytest.approx(math.log(probability), abs=1e-3)


@pytest.mark.parametrize("length", [1, 4096])
def test_blocks_of_any_length_match_a_recursion_in_log_space(length: int) -> None:
    hmm = random_hmm(3, 5, length, seed=2).float()
    case = make_case(hmm, batch_size=2, observed=0.3)
    log_initial, log_transition, log_emission = (
        torch.from_numpy(log(p)) for p in (case.model.initial, case.model.transition, case.model.emission)
    )
    log_weights = torch.from_numpy(log(case.weights))  # (B, L, V)
    leaves = (log_emission[None] + log_weights[:, :, None, :]).logsumexp(-1)  # (B, L, N)
    message = log_initial + leaves[:, 0]
    for i in range(1, length):
        message = (message[:, :, None] + log_transition[i - 1]).logsumexp(1) + leaves[:, i]
    assert_close(hmm.log_partition(case.evidence).double(), message.logsumexp(-1), atol=1e-3, rtol=1e-5)
    marginals = hmm.posterior(case.evidence).token_marginals()
    assert_close(marginals.double().sum(-1), torch.ones(2, length, dtype=torch.float64), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_latent_potentials_come_in_any_precision(dtype: torch.dtype) -> None:
    case = make_case(random_hmm(3, 4, 3).float(), potentials=True)
    potentials = case.arguments["latent_potentials"].to(dtype)
    found, expected = (
        case.hmm.log_partition(Evidence.from_logits(**{**case.arguments, "latent_potentials": phi}))
        for phi in (potentials, potentials.float())
    )
    assert_close(found.float(), expected, atol=1e-5, rtol=0.0)


def test_autocast_takes_nothing_from_the_precision() -> None:
    """Mixed precision is for the backbone: rounded to bfloat16, a sum over a block is off by tenths of nats."""
    case = make_case(random_hmm(16, 50, 32).float(), observed=0.2)
    expected = case.hmm.log_partition(case.evidence).detach()
    marginals = case.hmm.posterior(case.evidence).token_marginals().detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(case.hmm.log_partition(case.evidence).detach(), expected, atol=1e-4, rtol=0.0)
        assert_close(case.hmm.posterior(case.evidence).token_marginals().detach(), marginals, atol=1e-5, rtol=0.0)


def test_gradients_of_long_blocks_are_finite() -> None:
    hmm = random_hmm(3, 5, 1024).float()
    case = make_case(hmm, batch_size=1)
    loss = hmm.log_partition(case.evidence).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(hmm.parameters())))


def test_empty_batches_score_nothing() -> None:
    hmm = random_hmm(2, 3, 2)
    tokens = torch.zeros(0, 2, dtype=torch.long)
    assert hmm.log_prob(tokens).shape == (0,)
    assert hmm.log_partition(Evidence.from_logits(torch.zeros(0, 2, 3), tokens, 3)).shape == (0,)


# Gradients


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("length", [1, 3, 5])  # of blocks of five
def test_gradients_of_the_conditional_likelihood_match_finite_differences(
    length: int, top_k: int | None, homogeneous: bool
) -> None:
    hmm = random_hmm(3, 4, 5, homogeneous)
    case = make_case(hmm, batch_size=3, length=length, top_k=top_k, keep=True, absent=0.2, potentials=True, seed=1)
    tokens = torch.where(case.evidence.observed, case.evidence.tokens, case.random_tokens())
    loss_weights = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)

    def log_partition() -> Tensor:
        return hmm.log_partition(case.evidence) @ loss_weights

    def cll() -> Tensor:
        return hmm.log_joint(tokens, case.evidence) @ loss_weights - log_partition()

    generator = torch.Generator().manual_seed(9)
    for objective in (log_partition, cll):
        for parameter in hmm.parameters():
            (gradient,) = torch.autograd.grad(objective(), parameter)
            direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            values = []
            with torch.no_grad():
                for step in (1e-5, -2e-5, 1e-5):  # forth, back, and home
                    parameter.add_(step * direction)
                    values.append(objective().item())
            slope = (values[0] - values[1]) / 2e-5
            assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("top_k", [None, 2])
def test_gradients_reach_the_backbone(top_k: int | None) -> None:
    case = make_case(random_hmm(3, 4, 3), batch_size=2, top_k=top_k, keep=True, potentials=True, seed=1)

    def log_partition(logits: Tensor, potentials: Tensor) -> Tensor:
        return case.hmm.log_partition(
            Evidence.from_logits(**{**case.arguments, "logits": logits, "latent_potentials": potentials})
        )

    logits = case.arguments["logits"].requires_grad_(True)
    potentials = case.arguments["latent_potentials"].requires_grad_(True)
    case.hmm.requires_grad_(False)
    assert torch.autograd.gradcheck(log_partition, (logits, potentials))


# Parameters kept between calls


def changed(hmm: HMM) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [p + torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in hmm.parameters()]


@pytest.mark.parametrize("how", ["in place", "state dict", "optimizer"])
@torch.no_grad()
def test_a_change_of_parameters_is_seen_by_the_next_query(how: str) -> None:
    hmm, tokens = random_hmm(3, 4, 3), torch.from_numpy(tuples(4, 3))
    before = hmm.log_prob(tokens)
    if how == "in place":
        for parameter, value in zip(hmm.parameters(), changed(hmm), strict=True):
            parameter.copy_(value)
    elif how == "state dict":
        hmm.load_state_dict(dict(zip(hmm.state_dict(), changed(hmm), strict=True)))
    else:
        for parameter in hmm.parameters():
            parameter.grad = torch.ones_like(parameter).normal_()
        torch.optim.AdamW(hmm.parameters(), lr=0.5).step()
    expected = torch.from_numpy(log(model_of(hmm).table(np.ones((3, 4))).sum(1)))
    assert not torch.allclose(expected, before)
    assert_close(hmm.log_prob(tokens), expected, **CLOSE)


def test_a_training_step_that_writes_through_data_is_seen_by_the_next_query() -> None:
    """DeepSpeed updates parameters so, without telling autograd."""
    hmm, tokens = random_hmm(3, 4, 3), torch.from_numpy(tuples(4, 3))
    with torch.no_grad():
        hmm.log_prob(tokens)
    values = changed(hmm)
    hmm.log_prob(tokens).sum().backward()
    for parameter, value in zip(hmm.parameters(), values, strict=True):
        parameter.data.copy_(value)
    expected = torch.from_numpy(log(model_of(hmm).table(np.ones((3, 4))).sum(1)))
    with torch.no_grad():
        assert_close(hmm.log_prob(tokens), expected, **CLOSE)


def test_evaluation_in_inference_mode_leaves_a_frozen_circuit_trainable_through() -> None:
    """Lightning validates in inference mode, and trains the backbone through a frozen circuit after it."""
    case = make_case(random_hmm(3, 4, 3).requires_grad_(False))
    with torch.inference_mode():
        case.hmm.log_partition(case.evidence)
    logits = case.arguments["logits"].requires_grad_(True)
    evidence = Evidence.from_logits(**{**case.arguments, "logits": logits})
    (gradient,) = torch.autograd.grad(case.hmm.log_partition(evidence).sum(), logits)
    assert gradient.abs().sum() > 0


def test_a_circuit_made_in_inference_mode_answers() -> None:
    with torch.inference_mode():
        hmm = random_hmm(3, 4, 3)
        found = hmm.log_prob(torch.from_numpy(tuples(4, 3)))
    assert found.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)


def test_circuits_answer_the_same_with_and_without_gradients() -> None:
    case = make_case(random_hmm(3, 4, 3, homogeneous=False), top_k=2)
    with torch.no_grad():
        without = case.hmm.log_partition(case.evidence)
    assert_close(case.hmm.log_partition(case.evidence).detach(), without, **CLOSE)


def test_a_circuit_moves_to_another_precision_after_a_query() -> None:
    hmm, tokens = random_hmm(3, 4, 3), torch.from_numpy(tuples(4, 3))
    with torch.no_grad():
        expected = hmm.log_prob(tokens)
        found = hmm.float().log_prob(tokens)
    assert found.dtype == torch.float32
    assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


# What does not fit


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.long), "blocks of 4 tokens do not fit a circuit over 3 positions"),
        (torch.zeros(2, 0, dtype=torch.long), "blocks of 0 tokens"),
        (torch.zeros(3, dtype=torch.long), r"long \(B, L\).*\(3,\)"),
        (torch.zeros(2, 3), "torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int32), "torch.int32"),
        (torch.tensor([[0, 1, 5]]), r"\[0, 5\).*5"),
        (torch.tensor([[0, -1, 2]]), "-1"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: Tensor, message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        random_hmm(2, 5, 3).log_prob(tokens)


def test_evidence_over_another_vocabulary_is_refused() -> None:
    hmm = random_hmm(2, 5, 3)
    evidence = make_case(random_hmm(2, 6, 3)).evidence
    for query in (hmm.log_partition, hmm.posterior):
        with pytest.raises(CircuitError, match="6 tokens does not fit a circuit over 5"):
            query(evidence)


def test_evidence_for_longer_blocks_is_refused() -> None:
    hmm = random_hmm(2, 5, 3)
    evidence = make_case(random_hmm(2, 5, 4)).evidence
    for query in (hmm.log_partition, hmm.posterior):
        with pytest.raises(CircuitError, match="blocks of 4 tokens"):
            query(evidence)


@pytest.mark.parametrize("shape", [(2, 2), (2, 1), (3, 3)])
def test_tokens_of_another_shape_than_the_evidence_are_refused(shape: tuple[int, int]) -> None:
    case = make_case(random_hmm(2, 5, 3), batch_size=2)
    with pytest.raises(CircuitError, match=r"tokens"):
        case.hmm.log_joint(torch.zeros(shape, dtype=torch.long), case.evidence)


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 5), (2, 2, 4)])
def test_latent_potentials_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    case = make_case(random_hmm(4, 5, 3), batch_size=2)
    with pytest.raises(CircuitError, match="latent_potentials"):
        case.hmm.log_partition(
            Evidence.from_logits(**{**case.arguments, "latent_potentials": torch.zeros(shape, dtype=torch.float64)})
        )


@pytest.mark.parametrize("soft", [True, False])
def test_a_position_without_mass_is_named(soft: bool) -> None:
    hmm = two_state_hmm()
    logits = torch.zeros(2, 3, 4)
    logits[1, 2] = torch.tensor([-torch.inf, -torch.inf, -torch.inf, 0.0])  # all on what no state emits
    tokens = torch.full((2, 3), 4)
    if not soft:
        tokens[1, 2] = 3
    evidence = Evidence.from_logits(logits, tokens, mask_token_id=4)
    for query in (hmm.log_partition, hmm.posterior):
        with pytest.raises(EvidenceError, match="row 1, position 2"):
            query(evidence)


@pytest.mark.parametrize("size", ["num_states", "vocab_size", "block_length"])
def test_sizes_that_are_not_positive_are_refused(size: str) -> None:
    sizes = {"num_states": 2, "vocab_size": 3, "block_length": 4, size: 0}
    with pytest.raises(CircuitError, match=f"{size} must be at least 1, not 0"):
        HMM(**sizes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial", [0.5, 0.6]),
        ("initial", [1.5, -0.5]),
        ("initial", [math.nan, 0.5]),
        ("initial", [1.0]),
        ("transition", [[0.5, 0.5], [0.2, 0.2]]),
        ("transition", [[1.0, 0.0]]),
        ("transition", [[[0.5, 0.5], [0.5, 0.5]]]),
        ("emission", [[0.5, 0.5, 0.5], [0.2, 0.2, 0.6]]),
        ("emission", [[1.0, 0.5, -0.5], [0.2, 0.2, 0.6]]),
    ],
)
def test_numbers_that_are_no_distributions_are_refused_by_name(name: str, value: list) -> None:
    given_ones = {
        "initial": torch.tensor([0.5, 0.5]),
        "transition": torch.tensor([[0.5, 0.5], [0.1, 0.9]]),
        "emission": torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.2, 0.6]]),
        name: torch.tensor(value),
    }
    with pytest.raises(CircuitError, match=f"^{name} must"):
        HMM.from_probabilities(**given_ones, block_length=3)


def test_one_distribution_per_position_must_be_as_many_as_positions() -> None:
    initial, transition, emission = random_hmm(2, 3, 4, homogeneous=False).probabilities()
    with pytest.raises(CircuitError, match=r"transition must have shape \(2, 2, 2\), not \(3, 2, 2\)"):
        HMM.from_probabilities(initial, transition, emission, block_length=3)
