"""How many positions a step commits by confidence or entropy."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM, Evidence
from codd_lightning.decoding import COMMIT, DecodingConfig, generate
from codd_lightning.decoding.commit import how_many

FIXTURES = Path(__file__).parents[1] / "fixtures"
LENGTH, VOCABULARY, MASK = 7, 5, 9


@functools.cache
def tiny() -> Backbone:
    return load_backbone(FIXTURES / "a2d-qwen3-tiny", dtype="float64", attention="eager")


def logits(rows: int = 6) -> Tensor:
    return 3.0 * torch.randn(rows, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(0))


def surest_first() -> tuple[Tensor, Tensor]:
    """Probabilities, and scores that rank by the largest of each."""
    probabilities = logits().softmax(-1)
    return probabilities, probabilities.amax(-1)


@pytest.mark.parametrize("bound", [0.01, 0.3, 1.0, 3.0, 100.0])
def test_the_entropy_bound_is_that_of_transformers(bound: float) -> None:
    theirs = pytest.importorskip(
        "transformers.models.diffusion_gemma.generation_diffusion_gemma", reason="transformers is older than this model"
    )
    sampler = theirs.EntropyBoundSampler(theirs.EntropyBoundSamplerConfig(bound), LENGTH, VOCABULARY, 1)
    canvas = torch.zeros(6, LENGTH, dtype=torch.long)
    sampler.accept_canvas(canvas, canvas, logits(), 0)
    assert sampler.accepted_token_mask is not None
    everything = torch.ones(6, LENGTH, dtype=torch.bool)
    probabilities = logits().softmax(-1)
    found = how_many("entropy_bound", probabilities, -Categorical(probabilities).entropy(), everything, bound)
    assert found.tolist() == sampler.accepted_token_mask.sum(-1).tolist()


@pytest.mark.parametrize("bound", [0.0, 0.5, 0.9, 1.0])
def test_the_threshold_counts_what_is_above_it_and_never_nothing(bound: float) -> None:
    masked = torch.rand(6, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.6
    masked[0] = False
    found = how_many("threshold", *surest_first(), masked, bound)
    for row, (probabilities, open_) in enumerate(zip(logits().softmax(-1), masked, strict=True)):
        sure = sum(float(probabilities[i].max()) > bound for i in range(LENGTH) if open_[i])
        assert int(found[row]) == (max(sure, 1) if open_.any() else 0)


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 3.0])
def test_the_factor_form_counts_as_its_definition(factor: float) -> None:
    masked = torch.rand(6, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.7
    found = how_many("factor", *surest_first(), masked, factor)
    for row, (probabilities, open_) in enumerate(zip(logits().softmax(-1), masked, strict=True)):
        sure = sorted((float(probabilities[i].max()) for i in range(LENGTH) if open_[i]), reverse=True)
        fitting = [n for n in range(1, len(sure) + 1) if (n + 1) * (1 - sure[n - 1]) < factor]
        assert int(found[row]) == max([*fitting, min(len(sure), 1)])


HOLDS: dict[str, Callable[[Tensor, Tensor], float]] = {  # of confidences and entropies of a step, what is bounded above
    "threshold": lambda sure, unsure: -float(sure.min()),
    "factor": lambda sure, unsure: (len(sure) + 1) * (1.0 - float(sure.min())),
    "entropy_bound": lambda sure, unsure: float(unsure.sum() - unsure.max()),
    "joint": lambda sure, unsure: -float(sure.prod()),
}


@pytest.mark.parametrize("remasking", ["low_confidence", "margin", "entropy", "left_to_right"])
@pytest.mark.parametrize(
    ("rule", "bound"), [("threshold", 0.6), ("factor", 1.5), ("entropy_bound", 1.0), ("joint", 0.3)]
)
def test_what_a_step_commits_keeps_the_bound_whatever_ranks(
    rule: str, bound: float, remasking: str, fixed_logits: Callable[..., Any]
) -> None:
    most = 0
    for said in logits():
        config = DecodingConfig(
            max_new_tokens=LENGTH, block_length=LENGTH, commit=rule, commit_bound=bound, remasking=remasking, trace=True
        )
        trace = generate(fixed_logits(said, MASK), [[1]], config).trace
        assert trace is not None
        committed = trace[0].committed[0]
        most = max(most, int(committed.sum()))
        if committed.sum() > 1:
            held = HOLDS[rule](said.softmax(-1).amax(-1)[committed], Categorical(logits=said).entropy()[committed])
            assert held <= (-bound if rule in ("threshold", "joint") else bound)
    assert most > 1


def test_a_bound_turns_the_steps_into_an_outcome(fixed_logits: Callable[..., Any]) -> None:
    sure = torch.zeros(LENGTH, VOCABULARY)
    sure[:, 1] = torch.tensor([9.0, 9.0, 1.0, 9.0, 1.0, 9.0, 9.0])
    config = DecodingConfig(
        steps=1, max_new_tokens=LENGTH, block_length=LENGTH, commit="threshold", commit_bound=0.9, trace=True
    )
    written = generate(fixed_logits(sure, MASK), [[1]], config)
    assert written.trace is not None
    assert [step.committed[0].tolist() for step in written.trace] == [
        [True, True, False, True, False, True, True],
        [False, False, True, False, False, False, False],
        [False, False, False, False, True, False, False],
    ]
    assert written.nfe == [3]


@pytest.mark.parametrize("rule", COMMIT)
@pytest.mark.parametrize("paradigm", ["block", "full"])
@pytest.mark.parametrize("eos", ["any", "last"])
def test_every_rule_ends_with_nothing_masked(
    rule: str, paradigm: str, eos: str, random_hmm: Callable[..., HMM]
) -> None:
    hmm = random_hmm(8, 200, 8)
    for circuit in (None, hmm):
        config = DecodingConfig(
            paradigm=paradigm, commit=rule, commit_bound=0.5, max_new_tokens=20, block_length=8, eos=eos
        )
        written = generate(tiny(), [[5, 6], [7]], config, circuit=circuit)
        assert all(tiny().mask_token_id not in sequence for sequence in written.sequences)
        assert all(1 <= nfe <= 20 for nfe in written.nfe)


def test_a_rule_may_read_the_circuits_exact_marginals(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    hmm, said = random_hmm(3, VOCABULARY, LENGTH), logits(1)[0]
    config = DecodingConfig(
        max_new_tokens=LENGTH, block_length=LENGTH, commit="threshold", commit_bound=0.6, trace=True
    )
    first = {
        reads: generate(fixed_logits(said, MASK), [[1]], config.replace(commit_reads=reads), circuit=hmm).trace
        for reads in ("backbone", "circuit")
    }
    evidence = Evidence.from_logits(said[None], torch.full((1, LENGTH), MASK), MASK)
    for reads, distribution in (
        ("backbone", said.softmax(-1)),
        ("circuit", hmm.posterior(evidence).token_marginals()[0]),
    ):
        trace = first[reads]
        assert trace is not None
        assert int(trace[0].committed.sum()) == max(int((distribution.amax(-1) > 0.6).sum()), 1)


@pytest.mark.parametrize("bound", [0.0, 0.05, 0.3, 0.9])
def test_the_joint_rule_counts_while_the_product_is_at_least_the_bound(bound: float) -> None:
    masked = torch.rand(6, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.7
    found = how_many("joint", *surest_first(), masked, bound)
    for row, (probabilities, open_) in enumerate(zip(logits().softmax(-1), masked, strict=True)):
        sure = sorted((float(probabilities[i].max()) for i in range(LENGTH) if open_[i]), reverse=True)
        fitting = [n for n in range(1, len(sure) + 1) if math.prod(sure[:n]) >= bound]
        assert int(found[row]) == max([*fitting, min(len(sure), 1)])


@pytest.mark.parametrize("bound", [0.0, 0.02, 0.1, 0.3, 0.99])
def test_any_order_stops_by_the_exact_joint_probability_of_its_tokens(
    bound: float, fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    hmm, said = random_hmm(3, VOCABULARY, LENGTH), logits(1)[0]
    config = DecodingConfig(
        max_new_tokens=LENGTH, block_length=LENGTH, remasking="left_to_right", commit="joint", commit_bound=bound,
        commit_reads="circuit", trace=True,
    )  # fmt: skip
    written = generate(fixed_logits(said, MASK), [[1]], config, circuit=hmm)
    assert written.trace is not None
    known = torch.full((1, LENGTH), MASK)
    for step in written.trace:
        evidence = Evidence.from_logits(said[None], known, MASK)
        start, count = int((known != MASK).sum()), int(step.committed.sum())
        best = known.masked_fill(known == MASK, 0)
        joint = []
        for end in range(start + 1, LENGTH + 1):  # the greedy prefix, by sums over everything else
            where = torch.arange(LENGTH)[None] < end
            choices = best.repeat(VOCABULARY, 1)
            choices[:, end - 1] = torch.arange(VOCABULARY)
            scores = hmm.log_conditional(
                choices, evidence.rows(torch.zeros(VOCABULARY, dtype=torch.long)), where.expand(VOCABULARY, -1)
            )
            best[0, end - 1] = scores.argmax()
            joint.append(float(scores.max().exp()))
        fitting = [n for n, value in enumerate(joint, 1) if value >= bound]
        assert count == max([*fitting, 1])
        known = torch.where(step.committed, step.canvas[:, step.columns[0]], known)
    assert bool((known != MASK).all())


@pytest.mark.parametrize("paradigm", ["block", "full"])
@pytest.mark.parametrize("rule", ["threshold", "factor", "entropy_bound"])
def test_an_eos_that_has_to_wait_is_not_counted(rule: str, paradigm: str, fixed_logits: Callable[..., Any]) -> None:
    """Positions that are sure of EOS would make room for others that are not sure of anything."""
    said = torch.zeros(LENGTH, VOCABULARY)
    said[3:, 0] = 12.0  # EOS
    said[0, 1] = 12.0
    said[1:3, 2] = 0.1
    config = DecodingConfig(
        paradigm=paradigm, max_new_tokens=LENGTH, block_length=LENGTH, commit=rule, commit_bound=0.5, eos="last",
        trace=True,
    )  # fmt: skip
    written = generate(fixed_logits(said, MASK, [0]), [[1]], config)
    assert written.trace is not None
    steps = [2, 2] if rule == "entropy_bound" else [1, 1, 2]  # the last with the EOS that is due
    assert [int(step.committed.sum()) for step in written.trace] == steps
