"""Training of a circuit on a frozen backbone."""

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import whole_data
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from whole_data import EOS

from codd_lightning.backbones import Backbone
from codd_lightning.circuits import HMM, ContextualHMM, Evidence, SegmentedHMM, Traces
from codd_lightning.data import Batch, TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.modules import (
    AdamW,
    AnemoneEM,
    CircuitModule,
    CountingRecipe,
    CyclicAdamW,
    ExpectationMaximization,
    Noise,
    circuit_module,
)

from .helpers import backbone_of, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

BLOCK, VOCABULARY = 3, 24
STEADY = AdamW(lr=0.1, warmup_steps=0, final_fraction=1.0)


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


# the second word repeats the first: what the first block says together, no position says alone
ROWS = [(text(9), text(i % 4, i % 4, 7)) for i in range(32)]


def data_of(task: Any, words: PreTrainedTokenizerFast, batch_size: int = 16, **options: Any) -> TaskDataModule:
    return whole_data.data_of(task, words, BLOCK, 2 * BLOCK, batch_size, max_prompt_tokens=4, **options)


def real_backbone(words: PreTrainedTokenizerFast) -> Backbone:
    """A small transformer, untrained, with the tokenizer `words`."""
    backbone = backbone_of(hidden_size=16, num_layers=1)
    assert backbone.tokenizer is not None
    assert backbone.tokenizer.get_vocab() == words.get_vocab()
    return backbone


def hmm_of(num_states: int = 4, seed: int = 0, homogeneous: bool = True) -> HMM:
    hmm = HMM(num_states, VOCABULARY, BLOCK, homogeneous=homogeneous)
    hmm.reset_parameters(torch.Generator().manual_seed(seed))
    return hmm


def module_of(backbone: Any, hmm: HMM | None = None, noise: Noise | None = None, **options: Any) -> CircuitModule:
    given = {"weight": "inverse_t", "optimizer": STEADY, **options}
    return CircuitModule(backbone, hmm or hmm_of(), noise or Noise(block_length=BLOCK), **given)


def silent(module: Any) -> Any:
    """The module outside a trainer: what it logs goes nowhere."""
    module.log = lambda *args, **kwargs: None
    return module


def first_batch(data: TaskDataModule, size: int = 6) -> Batch:
    dataset = data.dataset("train")
    return data.collate([dataset[i] for i in range(size)])


def circuit_table(hmm: HMM) -> Tensor:
    """`p_ω` of every block of three tokens, `(V, V, V)`, state by state."""
    initial, transition, emission = (p.detach().double() for p in hmm.probabilities())
    table = torch.zeros(VOCABULARY, VOCABULARY, VOCABULARY, dtype=torch.float64)
    for a, b, c in itertools.product(range(hmm.num_states), repeat=BLOCK):
        weight = initial[a] * transition[a, b] * transition[b, c]
        table += weight * torch.einsum("x,y,z->xyz", emission[a], emission[b], emission[c])
    return table


@pytest.mark.parametrize("canvas", ["uniform", "block"])
@pytest.mark.parametrize("weight", ["inverse_t", "per_token", "flat"])
def test_the_loss_is_the_weighted_conditional_log_likelihood_of_the_masked_tokens(
    weight: str,
    canvas: str,
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    fixed_logits: Callable[..., Any],
) -> None:
    logits = torch.randn(2 * BLOCK, VOCABULARY, generator=torch.Generator().manual_seed(0))
    hmm, noise = hmm_of(), Noise(canvas=canvas, block_length=BLOCK)
    module = silent(module_of(fixed_logits(logits, words.mask_token_id, [EOS]), hmm, noise, weight=weight))
    batch = first_batch(data_of(listed_task(train=ROWS), words))
    noised = noise(batch, words.mask_token_id, 0, "training noise")
    probabilities = logits.double().exp()
    probabilities[:, words.mask_token_id] = 0.0
    probabilities /= probabilities.sum(-1, keepdim=True)
    table, loss = circuit_table(hmm), 0.0
    for row in range(len(batch)):
        t, candidates = float(noised.t[row]), int(noised.candidates[row])
        scored = int(noised.scored[row].sum())
        factor = {"inverse_t": 1 / (t * candidates), "per_token": 1 / max(scored, 1), "flat": 1 / candidates}[weight]
        for block in range(2):
            columns = range(batch.prompt_length + BLOCK * block, batch.prompt_length + BLOCK * (block + 1))
            if not any(bool(noised.scored[row, c]) for c in columns):
                continue
            weights = torch.zeros(BLOCK, VOCABULARY, dtype=torch.float64)
            ids = [int(batch.input_ids[row, c]) for c in columns]
            for i, c in enumerate(columns):
                if noised.masked[row, c]:
                    weights[i] = probabilities[c - batch.prompt_length]
                else:
                    weights[i, ids[i]] = 1.0
            joint = table * torch.einsum("x,y,z->xyz", *weights)
            loss -= factor * float((joint[tuple(ids)] / joint.sum()).log()) / len(batch)
    torch.testing.assert_close(float(module.training_step(batch, 0).detach()), loss, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_neutral_circuit_is_that_of_the_backbone(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, neutral_hmm: Callable[..., HMM]
) -> None:
    backbone = real_backbone(words)
    module = silent(module_of(backbone, neutral_hmm(3, VOCABULARY, BLOCK), weight="flat"))
    batch = first_batch(data_of(listed_task(train=ROWS), words))
    noised = module.noise(batch, words.mask_token_id, 0, "training noise")
    logits = backbone(noised.canvas, batch.attention_mask)
    logits[..., words.mask_token_id] = -torch.inf
    nll = -logits.log_softmax(-1).gather(-1, batch.input_ids[..., None]).squeeze(-1)
    expected = (nll * noised.scored / noised.candidates[:, None]).nansum() / len(batch)
    torch.testing.assert_close(module.training_step(batch, 0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("top_k", [VOCABULARY, VOCABULARY - 1])
def test_truncated_evidence_of_nearly_everything_gives_nearly_the_same_loss(
    top_k: int, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    backbone = real_backbone(words)
    batch = first_batch(data_of(listed_task(train=ROWS), words))
    dense = silent(module_of(backbone, hmm_of())).training_step(batch, 0)
    truncated = silent(module_of(backbone, hmm_of(), evidence_top_k=top_k)).training_step(batch, 0)
    torch.testing.assert_close(truncated, dense, rtol=1e-4, atol=1e-4)


def test_only_the_circuit_gets_gradients(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> None:
    backbone = real_backbone(words)
    module = silent(module_of(backbone))
    module.training_step(first_batch(data_of(listed_task(train=ROWS), words)), 0).backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in module.circuit.parameters())
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        f"circuit.{name}" for name, _ in module.circuit.named_parameters()
    }


def test_the_backbone_stays_in_evaluation_mode(words: PreTrainedTokenizerFast) -> None:
    module = module_of(real_backbone(words))
    for mode in (True, False, True):
        module.train(mode)
        assert module.circuit.training == mode
        assert not any(part.training for part in module.backbone.modules())


@pytest.mark.parametrize("canvas", ["uniform", "block"])
def test_a_batch_without_a_masked_token_costs_nothing_and_breaks_nothing(
    canvas: str, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Noise(canvas=canvas, block_length=BLOCK)
    module = module_of(real_backbone(words), noise=noise)
    batch = first_batch(data_of(listed_task(train=ROWS), words))
    noised = noise(batch, words.mask_token_id, 0, "training noise")
    nothing = torch.zeros_like(noised.masked)
    clean = type(noised)(batch.input_ids, nothing, nothing, noised.candidates, noised.t)
    monkeypatch.setattr(Noise, "__call__", lambda *args: clean)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **options: logged.update({name: float(value)})  # type: ignore[method-assign, misc, assignment]  # outside a trainer
    loss = module.training_step(batch, 0)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert all(parameter.grad is None or bool((parameter.grad == 0).all()) for parameter in module.parameters())
    assert all(value == value for value in logged.values())  # none is NaN


def fitted(
    words: PreTrainedTokenizerFast, task: Any, checkpoint: Path | None = None, seed: int = 0, **options: Any
) -> tuple[CircuitModule, L.Trainer]:
    module, trainer = module_of(real_backbone(words), hmm_of(seed=seed)), trainer_of(**options)
    trainer.fit(module, datamodule=data_of(task, words), ckpt_path=checkpoint, weights_only=True)
    return module, trainer


def test_checkpoints_hold_the_circuit_alone_and_load_safely(
    tmp_path: Path, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    backbone = real_backbone(words)
    module, trainer = fitted(words, listed_task(train=ROWS, validation=ROWS), max_steps=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved = checkpoint["state_dict"]
    assert {name for name in saved if name.startswith("backbone")} == set()
    for name, value in module.circuit.state_dict().items():
        assert torch.equal(saved[f"circuit.{name}"], value)
    assert not torch.equal(saved["circuit.emission_logits"], hmm_of().emission_logits)  # it did train
    for name, value in module.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value)  # and the backbone did not


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    task = listed_task(train=ROWS, validation=ROWS)
    whole, _ = fitted(words, task, max_epochs=3)
    _, trainer = fitted(words, task, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, trainer = fitted(words, task, checkpoint=tmp_path / "last.ckpt", seed=5, max_epochs=3)
    assert trainer.global_step == 3 * 2
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_circuit_learns_what_the_factorized_backbone_cannot_say(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, fixed_logits: Callable[..., Any]
) -> None:
    logits = torch.full((2 * BLOCK, VOCABULARY), -6.0)  # the true marginals of `ROWS`
    logits[:2, words.convert_tokens_to_ids([f"w{i}" for i in range(4)])] = 0.0
    logits[2, words.convert_tokens_to_ids("w7")] = 4.0
    logits[3:, EOS] = 4.0
    backbone = fixed_logits(logits, words.mask_token_id, [EOS])
    noise = Noise(block_length=BLOCK, fully_masked=0.5)
    module = module_of(backbone, hmm_of(num_states=12), noise)
    data = data_of(listed_task(train=ROWS, validation=ROWS), words)
    before = trainer_of().validate(module, datamodule=data, verbose=False)[0]
    trainer_of(max_epochs=40, limit_val_batches=0).fit(module, datamodule=data)
    after = trainer_of().validate(module, datamodule=data, verbose=False)[0]
    assert after["validation/nll_factorized"] == pytest.approx(before["validation/nll_factorized"])
    assert after["validation/nll_coupled"] < before["validation/nll_coupled"]
    # of a fully masked first block the factorized backbone says one of 16 pairs, and 4 are right
    assert after["validation/cll_gain/0.75-1.00"] > 0.2
    assert after["validation/nll_coupled"] < after["validation/nll_factorized"] - 0.1


def test_validation_reports_the_same_for_every_batch_size(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, fixed_logits: Callable[..., Any]
) -> None:
    logits = torch.randn(2 * BLOCK, VOCABULARY, generator=torch.Generator().manual_seed(0))
    module = module_of(fixed_logits(logits, words.mask_token_id, [EOS]))
    rows = [(text(*range(1 + i % 3)), text(i % 4, 5)) for i in range(12)]
    reports = [
        trainer_of().validate(
            module, datamodule=data_of(listed_task(validation=rows), words, batch_size=size), verbose=False
        )[0]
        for size in (1, 5, 12)
    ]
    assert reports[0] == pytest.approx(reports[1], abs=1e-5)
    assert reports[0] == pytest.approx(reports[2], abs=1e-5)


def test_parts_that_do_not_fit_are_refused(words: PreTrainedTokenizerFast) -> None:
    backbone = real_backbone(words)
    with pytest.raises(UserError, match=r"objective\.weight=inverse.*inverse_t"):
        module_of(backbone, weight="inverse")
    with pytest.raises(UserError, match=r"25 tokens.*24"):
        module_of(backbone, HMM(2, VOCABULARY + 1, BLOCK))
    with pytest.raises(UserError, match="3-token blocks"):
        module_of(backbone, noise=Noise(block_length=4))


@pytest.mark.parametrize(
    "recipe",
    [
        ExpectationMaximization(lr=0.5, warmup_steps=0, final_fraction=1.0),
        AnemoneEM(lr=0.3, warmup_steps=0, final_fraction=1.0),
    ],
)
def test_counting_optimizers_learn_the_same_and_resume(
    recipe: CountingRecipe,
    tmp_path: Path,
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
) -> None:
    task = listed_task(train=ROWS, validation=ROWS)

    def fit(epochs: int, checkpoint: Path | None = None, seed: int = 0) -> tuple[Any, L.Trainer]:
        module, trainer = (
            module_of(real_backbone(words), hmm_of(seed=seed), optimizer=recipe),
            trainer_of(max_epochs=epochs),
        )
        trainer.fit(module, datamodule=data_of(task, words), ckpt_path=checkpoint, weights_only=True)
        return module, trainer

    whole, trainer = fit(6)
    assert trainer.global_step == 6 * 2
    _, trainer = fit(3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, _ = fit(6, tmp_path / "last.ckpt", seed=5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-5, rtol=1e-5)
    batch = first_batch(data_of(task, words), 32)
    losses = [
        float(silent(module_of(real_backbone(words), hmm)).training_step(batch, 0).detach())
        for hmm in (hmm_of(), whole.circuit)
    ]
    assert losses[1] < losses[0] - 0.1


@pytest.mark.parametrize("optimizer", [STEADY, ExpectationMaximization(lr=1.0, warmup_steps=0)])
def test_the_likelihood_objective_is_that_of_clean_blocks_without_a_backbone(
    optimizer: Any, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    hmm, data = hmm_of(), data_of(listed_task(train=ROWS), words)
    backbone = real_backbone(words)
    module = silent(module_of(backbone, hmm, weight="flat", optimizer=optimizer, conditional=False))
    batch = first_batch(data)
    table = circuit_table(hmm).log()
    blocks = batch.input_ids[:, batch.prompt_length :].reshape(-1, BLOCK)
    expected = -table[tuple(blocks.T)].sum() / len(batch)
    backbone.model.forward = None  # type: ignore[method-assign]  # it is never asked
    module._step_by_counts = lambda *_: None
    logged = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    module.training_step(batch, 0)
    assert logged["train/loss"] == pytest.approx(float(expected), rel=1e-5)


def test_em_for_the_likelihood_never_falls_on_the_whole_data(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    hmm, data = hmm_of(), data_of(listed_task(train=ROWS), words, batch_size=32)
    recipe = ExpectationMaximization(lr=1.0, pseudocount=0.0, warmup_steps=0, final_fraction=1.0)
    module = module_of(real_backbone(words), hmm, weight="flat", optimizer=recipe, conditional=False)
    batch = data.collate([data.dataset("train")[i] for i in range(32)])
    blocks = batch.input_ids[:, batch.prompt_length :].reshape(-1, BLOCK)
    likelihoods = []

    class Record(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            likelihoods.append(float(hmm.log_prob(blocks).detach().sum()))

    trainer_of(max_epochs=6, limit_val_batches=0, callbacks=[Record()]).fit(module, data)
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] > likelihoods[0] + 1.0


class Watch(L.Callback):
    """Which parameters each step moves, and whether the optimizer's moments were fresh before it."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.fresh: list[bool] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.fresh.append(not any(value.any() for state in optimizer.state.values() for value in state.values()))
        self._before = {name: p.detach().clone() for name, p in pl_module.circuit.named_parameters()}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        now = dict(pl_module.circuit.named_parameters())
        self.moved.append({name for name, before in self._before.items() if not torch.equal(before, now[name])})


def test_heads_wait_for_the_tables_and_every_cycle_starts_afresh(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    circuit = ContextualHMM(8, VOCABULARY, BLOCK, 16, roles=2, adapter_width=16)
    recipe = CyclicAdamW(lr=0.1, warmup_steps=1, cycles=3, static_cycles=1)
    module = module_of(real_backbone(words), circuit, optimizer=recipe)
    watch = Watch()
    trainer = trainer_of(max_epochs=6, callbacks=[watch])  # 12 steps, 4 a cycle
    trainer.fit(module, datamodule=data_of(listed_task(train=ROWS, validation=ROWS), words))
    tables = {name for name, _ in circuit.named_parameters() if name.endswith("_logits")}
    assert all(moved == tables for moved in watch.moved[:4])
    assert watch.moved[5] > tables
    assert {name for moved in watch.moved[4:] for name in moved} == {name for name, _ in circuit.named_parameters()}
    assert [step for step, fresh in enumerate(watch.fresh) if fresh] == [0, 4, 8]


class FirstLoss(L.Callback):
    """The loss of the first step, and its blocks."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            self.loss, self.blocks = float(outputs["loss"].detach()), pl_module._blocks(batch, 0, "training noise")


def test_a_circuit_alone_learns_the_text_and_hears_nothing_of_the_backbones_tokens(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    circuit = SegmentedHMM(6, VOCABULARY, BLOCK, 16, stop_token=5, segments=2, stop_states=1, slots=2)
    at_the_start = copy.deepcopy(circuit)
    recipe = CyclicAdamW(lr=0.1, warmup_steps=1, cycles=2, static_cycles=0, alone_cycles=1)
    module = module_of(real_backbone(words), circuit, optimizer=recipe)
    first = FirstLoss()
    trainer = trainer_of(max_epochs=2, callbacks=[first])
    trainer.fit(module, datamodule=data_of(listed_task(train=ROWS, validation=ROWS), words))
    blocks, nothing = first.blocks, Evidence.nothing_known(len(first.blocks.tokens), BLOCK, VOCABULARY)
    nothing = dataclasses.replace(nothing, absent=blocks.evidence.absent)
    # heads begin at nothing, where the circuit given the context is the circuit
    expected = -at_the_start.log_conditional(blocks.tokens, nothing).detach().sum() / BLOCK / blocks.examples
    assert first.loss == pytest.approx(float(expected), rel=1e-5)
    moved = {name for name, p in circuit.named_parameters() if not torch.equal(p, at_the_start.get_parameter(name))}
    assert moved == {name for name, _ in circuit.named_parameters()}


@pytest.mark.parametrize(
    ("reads_context", "cycles", "splits"),
    [
        (False, {"cycles": 3, "static_cycles": 1}, 2),
        (False, {"cycles": 3, "static_cycles": 1, "split_states": False}, 0),
        (True, {"cycles": 4, "static_cycles": 1, "alone_cycles": 1}, 3),
    ],
)
def test_states_are_split_where_a_cycle_starts(
    reads_context: bool,
    cycles: dict[str, Any],
    splits: int,
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[int] = []

    def split(circuit: HMM, traces: Traces) -> int:
        found.append(len(traces.tokens))
        with torch.no_grad():
            circuit.initial_logits.fill_(3.0)
        return 2

    monkeypatch.setattr(circuit_module, "split_forgetful_states", split)
    monkeypatch.setattr(circuit_module, "TRACED_BLOCKS", 3)
    circuit = hmm_of(num_states=8)
    if reads_context:
        circuit = SegmentedHMM(8, VOCABULARY, BLOCK, 16, stop_token=5, segments=2, stop_states=1, slots=2)
    module = module_of(real_backbone(words), circuit, optimizer=CyclicAdamW(lr=1e-9, warmup_steps=0, **cycles))
    data = data_of(listed_task(train=ROWS, validation=ROWS), words)
    trainer_of(max_epochs=cycles["cycles"]).fit(module, datamodule=data)
    assert len(found) == splits
    assert all(blocks >= 3 for blocks in found)
    assert bool((circuit.initial_logits > 2.9).all()) == bool(splits)


def test_a_circuit_that_learns_text_alone_is_traced_without_the_backbone(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Traces] = []
    monkeypatch.setattr(
        circuit_module, "split_forgetful_states", lambda circuit, traces: len(found.append(traces) or "")
    )
    circuit = hmm_of(num_states=8)
    recipe = CyclicAdamW(lr=1e-9, warmup_steps=0, cycles=2, static_cycles=0)
    module = module_of(real_backbone(words), circuit, optimizer=recipe, conditional=False)
    trainer_of(max_epochs=2).fit(module, datamodule=data_of(listed_task(train=ROWS, validation=ROWS), words))
    (traces,) = found
    _, transition, emission = circuit.probabilities()
    expected = (transition @ emission).detach()[traces.states[:, :-1]]  # the chain's own word, and no evidence
    ranked = torch.bincount(traces.tokens.flatten(), minlength=VOCABULARY).topk(VOCABULARY).indices
    torch.testing.assert_close(traces.expected[:, 1:, :-1], expected[..., ranked], atol=1e-5, rtol=1e-4)


def test_states_that_differ_by_position_are_left_alone(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = CyclicAdamW(lr=1e-9, warmup_steps=0, cycles=2, static_cycles=0)
    module = module_of(real_backbone(words), hmm_of(num_states=8, homogeneous=False), optimizer=recipe)
    trainer_of(max_epochs=2).fit(module, datamodule=data_of(listed_task(train=ROWS, validation=ROWS), words))
    assert "optimizer.split_states has no effect on states that differ by position" in caplog.text


def test_the_backbone_is_asked_of_examples_with_hidden_blocks_alone(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[Traces] = []
    monkeypatch.setattr(circuit_module, "TRACED_BLOCKS", 10_000)
    monkeypatch.setattr(
        circuit_module, "split_forgetful_states", lambda circuit, traces: len(traced.append(traces) or "")
    )
    recipe = CyclicAdamW(lr=1e-9, warmup_steps=0, cycles=2, static_cycles=0)
    noise = Noise("uniform", BLOCK, 0.5, 0)
    module = module_of(real_backbone(words), hmm_of(num_states=8), noise, optimizer=recipe)
    asked: list[int] = []
    blocks_of, hidden_text = module._blocks, module.hidden_text

    def counting(*arguments: Any) -> Any:
        module._blocks = lambda batch, *more: asked.append(len(batch)) or blocks_of(batch, *more)
        text = hidden_text(*arguments)
        module._blocks = blocks_of
        return text

    module.hidden_text = counting  # type: ignore[method-assign]
    data = data_of(listed_task(train=ROWS, validation=ROWS), words)
    trainer_of(max_epochs=2).fit(module, datamodule=data)
    training = data.dataset("train")
    everything = data.collate([training[place] for place in range(len(training))])
    blocks = module._blocks(everything, 1, "training noise")  # of the epoch before which states are split
    hidden = blocks.masked.float().mean(-1) >= circuit_module.HIDDEN
    assert sorted(traced[0].tokens.tolist()) == sorted(blocks.tokens[hidden].tolist())
    examples = len(set(blocks.row[hidden].tolist()))
    assert 0 < examples <= sum(asked) <= examples + len(asked)  # one a batch, if need be
    assert sum(asked) < len(training)


def test_parameters_that_text_alone_does_not_reach_have_gradients_of_nothing(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            for name, parameter in pl_module.circuit.named_parameters():
                assert parameter.grad is not None, name  # ranks would wait for it
                assert bool(parameter.grad.any()) == name.endswith("_logits"), name

    circuit = ContextualHMM(8, VOCABULARY, BLOCK, 16, roles=2, adapter_width=16)
    module = module_of(real_backbone(words), circuit, optimizer=AdamW(lr=0.1), conditional=False)
    trainer_of(max_epochs=1, callbacks=[Look()]).fit(
        module, datamodule=data_of(listed_task(train=ROWS, validation=ROWS), words)
    )


def test_where_no_block_is_hidden_it_is_said_that_no_state_is_split(
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(circuit_module, "HIDDEN", 1.5)
    recipe = CyclicAdamW(lr=1e-9, warmup_steps=0, cycles=2, static_cycles=0)
    module = module_of(real_backbone(words), hmm_of(num_states=8), optimizer=recipe)
    trainer_of(max_epochs=2).fit(module, datamodule=data_of(listed_task(train=ROWS, validation=ROWS), words))
    assert "optimizer.split_states has no effect" in caplog.text
