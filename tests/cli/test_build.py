"""Every experiment that needs nothing from outside builds, and is feasible as it is shipped."""

import pytest

from codd_lightning.circuits import CircuitError, ContextualHMM, Seen, SegmentedHMM
from codd_lightning.cli.build import build
from codd_lightning.cli.compose import EXPERIMENTS, compose_experiment
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.errors import UserError

# data of the Hub or the user, and backbones trained here
FROM_OUTSIDE = {"gsm8k_backbone", "gsm8k_circuit", "laptop", "parallelbench"}
SMALLER = {"tiny_backbone": ["backbone.tokenizer_examples=200"]}


@pytest.mark.parametrize("name", sorted({path.stem for path in EXPERIMENTS.glob("*.yaml")} - FROM_OUTSIDE))
def test_a_shipped_experiment_builds(name: str) -> None:
    config = compose_experiment(name, SMALLER.get(name, []))
    require_feasible(config, build(config))


@pytest.mark.parametrize(
    ("task", "limit", "decoders"), [("worded_sums", 185552, 27), ("lists", 185552, 27), ("gsm8k", 1300000, 0)]
)
def test_rivals_is_one_grid_over_tasks(task: str, limit: int, decoders: int) -> None:
    config = compose_experiment("rivals", [f"rivals={task}", "circuit=sampler_head"])
    assert len(config.evaluation.decoders) == decoders
    assert config.optimizer.lr == 1e-2  # the sampler head's own, whatever the task
    assert config.circuit.max_parameters == limit
    assert (config.backbone.path_or_repo == "codd_tiny") == (task == "worded_sums")


def test_a_circuit_of_the_tokens_seen_has_those_of_the_training_responses() -> None:
    built = build(compose_experiment("smoke", ["circuit.vocabulary=seen", "circuit.num_states=8"]))
    assert isinstance(built.circuit, Seen)
    seen = {token for row in built.data.dataset("train") for token in row.response}
    assert built.circuit.vocabulary.token_ids == sorted(seen)
    assert built.backbone.eos_token_ids[0] in seen
    assert built.circuit.vocab_size == built.backbone.vocab_size
    limited = ["circuit.vocabulary=seen", "circuit.max_parameters=1000"]
    circuit = build(compose_experiment("smoke", limited)).circuit
    assert circuit is not None
    assert 900 < sum(p.numel() for p in circuit.parameters()) <= 1000


@pytest.mark.parametrize("choice", ["factorized", "sampler_head"])
def test_a_limit_says_nothing_of_circuits_without_states(choice: str) -> None:
    unlimited, limited = (
        build(compose_experiment("smoke", [f"circuit={choice}", *limit])).circuit
        for limit in ([], ["circuit.max_parameters=1"])
    )
    assert unlimited is not None
    assert limited is not None
    assert limited.config() == unlimited.config()


def test_sentences_end_with_one_token_of_the_backbones() -> None:
    built = build(compose_experiment("smoke", ["circuit=segmented_hmm", "circuit.num_states=8"]))
    assert isinstance(built.circuit, SegmentedHMM)
    assert built.backbone.tokenizer is not None
    assert built.circuit.config()["stop_token"] == built.backbone.tokenizer.encode(".")[0]
    with pytest.raises(UserError, match=r"circuit.stop=lamps\. is 2 tokens of this backbone, and must be one"):
        build(compose_experiment("smoke", ["circuit=segmented_hmm", "circuit.stop=lamps."]))
    with pytest.raises(UserError, match=r"circuit.stop=zebra is no word of this backbone's"):
        build(compose_experiment("smoke", ["circuit=segmented_hmm", "circuit.stop=zebra"]))
    limited = build(compose_experiment("smoke", ["circuit=segmented_hmm", "circuit.max_parameters=185552"])).circuit
    assert limited is not None
    assert 183_000 < sum(p.numel() for p in limited.parameters()) <= 185_552
    open_too = ["circuit=segmented_hmm", "circuit.open_states=96", "circuit.max_parameters=185552"]
    assert build(compose_experiment("smoke", open_too)).circuit.num_states > 96
    with pytest.raises(CircuitError, match=r"circuit\.max_parameters=1000 is less than a circuit of 5 states has"):
        build(compose_experiment("smoke", ["circuit=segmented_hmm", "circuit.max_parameters=1000"]))
    with pytest.raises(UserError, match="reads hidden states, and this backbone gives none: use circuit=hmm"):
        build(compose_experiment("varying_lists", ["circuit=segmented_hmm"]))


@pytest.mark.parametrize("option", ["decoding.evidence_top_k", "objective.evidence_top_k", "cache.top_k"])
def test_truncated_evidence_is_refused_by_what_reads_whole_distributions(option: str) -> None:
    config = compose_experiment("smoke", ["circuit=segmented_hmm", "circuit.num_states=8", f"{option}=16"])
    with pytest.raises(UserError, match=r"top_k=16: circuit=segmented_hmm reads whole distributions: use \w+=null"):
        require_feasible(config, build(config))


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CircuitError, match="contextual_hmm' reads hidden states, and needs vocabulary=all"):
        build(compose_experiment("smoke", ["circuit=contextual_hmm", "circuit.vocabulary=seen"]))
    with pytest.raises(UserError, match=r"circuit\.vocabulary=some is not one of all, seen"):
        build(compose_experiment("smoke", ["circuit.vocabulary=some"]))


def test_a_decoder_has_a_commit_rule_of_its_own() -> None:
    rule = "{proposal: any_order, commit: threshold, commit_bound: 0.7, commit_reads: circuit}"
    decoders = f"evaluation.decoders=[{{proposal: factorized}}, {rule}]"
    plain, by_rule = build(compose_experiment("smoke", [decoders])).decoders
    assert (plain.commit, plain.commit_bound) == ("quota", None)
    assert (by_rule.commit, by_rule.commit_bound, by_rule.commit_reads) == ("threshold", 0.7, "circuit")
    alone = "evaluation.decoders=[{proposal: any_order, commit_bound: 0.7}]"
    with pytest.raises(UserError, match=r"commit_bound=0\.7 .* needs a commit"):
        build(compose_experiment("smoke", [alone]))


@pytest.mark.parametrize(
    ("decoders", "said"),
    [
        ("[{proposal: any_order, commit_reads: circuit}]", "commit_reads=circuit has no effect with commit=quota"),
        ("[{proposal: any_order, commit: threshold}]", "decoder any_order: commit=threshold needs a commit_bound"),
    ],
)
def test_a_wrong_commit_rule_is_named_as_the_decoders_own(decoders: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(compose_experiment("smoke", [f"evaluation.decoders={decoders}"]))


def test_decoders_of_callbacks_are_checked_before_a_run() -> None:
    chosen = "callbacks.few_step_reasoning.decoders=[{proposal: map}]"
    config = compose_experiment("smoke", ["circuit=sampler_head", "callbacks=few_step_reasoning", chosen])
    with pytest.raises(UserError, match=r"callbacks\.few_step_reasoning\.decoders: .*proposal=map reads latent states"):
        require_feasible(config, build(config))


def test_what_reads_latent_states_is_refused_of_a_sampler_head() -> None:
    options = ["circuit=sampler_head", "evaluation.decoders=[{proposal: map}]"]
    config = compose_experiment("smoke", options)
    with pytest.raises(UserError, match="proposal=map reads latent states, and circuit=sampler_head has none"):
        require_feasible(config, build(config))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("objective=likelihood", "objective=likelihood trains log p_ω, and circuit=sampler_head has none"),
        ("optimizer=em", "circuit=sampler_head has no tables to count in"),
        ("initialization.kind=uniform", r"initialization\.kind=uniform starts latent states"),
    ],
)
def test_what_a_sampler_head_has_not_is_refused_before_a_run(option: str, said: str) -> None:
    config = compose_experiment("smoke", ["circuit=sampler_head", option])
    with pytest.raises(UserError, match=said):
        require_feasible(config, build(config))


def test_a_limit_of_parameters_leaves_whole_roles() -> None:
    limited = ["circuit=contextual_hmm", "circuit.roles=16", "circuit.max_parameters=185552"]
    circuit = build(compose_experiment("smoke", limited)).circuit
    assert isinstance(circuit, ContextualHMM)
    assert circuit.num_states == 256
    assert sum(p.numel() for p in circuit.parameters()) == 185552


def test_gradients_that_are_scaled_are_not_clipped_by_a_policy() -> None:
    config = compose_experiment("diffu_grpo", ["trainer.precision=16-mixed"])
    with pytest.raises(UserError, match=r"trainer\.precision=16-mixed.*bf16-mixed"):
        require_feasible(config, build(config))


@pytest.mark.parametrize("asked", ["8", "null"])
def test_roles_that_learn_of_fewer_tokens_than_they_are_asked_of_are_told_so(
    asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["circuit=contextual_hmm", "circuit.num_states=16", "objective.evidence_top_k=8"]
    config = compose_experiment("smoke", [*options, f"decoding.evidence_top_k={asked}"])
    require_feasible(config, build(config))
    assert ("set both alike" in caplog.text) == (asked == "null")


def test_cycles_that_find_nothing_to_do_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def told(*options: str) -> list[str]:
        config = compose_experiment("smoke", list(options))
        caplog.clear()
        require_feasible(config, build(config))
        return [record.message.split(" has no effect")[0] for record in caplog.records]

    given = ["optimizer.head_lr=0.01", "optimizer.later_lr=0.02", "optimizer.alone_cycles=1"]
    assert told() == []
    assert told("circuit=contextual_hmm", *given) == []
    assert told("circuit=tree", *given) == ["optimizer.head_lr=0.01"]
    assert told("circuit=sampler_head", *given) == ["optimizer.head_lr=0.01", "optimizer.later_lr=0.02"]
    backbone = ["circuit=none", "objective=masked_diffusion", "evaluation.decoders=[{proposal: factorized}]"]
    assert told(*backbone, "callbacks=none", *given) == [*given[:2], given[2]]


@pytest.mark.parametrize("circuit", ["contextual_hmm", "segmented_hmm", "sampler_head"])
def test_circuits_that_read_the_context_are_refused_where_their_weights_get_lost(circuit: str) -> None:
    config = compose_experiment("smoke", [f"circuit={circuit}", "trainer=deepspeed_zero3", "callbacks=none"])
    with pytest.raises(UserError, match=r"stage=3: .* use trainer=fsdp2, or stage 2"):
        require_feasible(config, build(config))
