"""Optimizer recipes: their schedules, and two optimizers that act and are saved as one."""

import copy
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM, ContextualHMM
from codd_lightning.errors import UserError
from codd_lightning.modules import AdamW, CyclicAdamW, Muon, OptimizerRecipe

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECIPES: list[OptimizerRecipe] = [
    AdamW(lr=0.01, warmup_steps=4, final_fraction=0.1),
    Muon(lr=0.01, muon_lr=0.05, weight_decay=0.1, warmup_steps=4, final_fraction=0.1),
]
IDS = ["adamw", "muon"]


def tiny() -> Backbone:
    return load_backbone(FIXTURES / "a2d-qwen3-tiny", attention="eager")


def set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def take_steps(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range, schedule: Any = None
) -> None:
    for step in steps:
        set_gradients(parameters, step)
        optimizer.step()
        if schedule is not None:
            schedule.step()


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_learning_rates_warm_up_and_decay_to_their_last_fraction(recipe: OptimizerRecipe) -> None:
    module, total = tiny(), 24
    made = recipe(module.named_parameters(), total)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    peaks = [recipe.muon_lr, recipe.lr] if isinstance(recipe, Muon) else [recipe.lr]
    shares = []
    for _ in range(total + 1):
        rates = [group["lr"] for group in optimizer.param_groups]
        shares.append(rates[0] / peaks[0])
        assert rates == pytest.approx([peak * shares[-1] for peak in peaks])
        optimizer.step()
        schedule.step()
    assert shares[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert shares[14] == pytest.approx(0.1 + 0.9 * 0.5)  # half-way down
    assert shares[9] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert shares[-1] == pytest.approx(0.1)
    assert shares[4:] == sorted(shares[4:], reverse=True)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    recipe = AdamW(lr=0.5, warmup_steps=0, final_fraction=0.0)
    assert [recipe.factor(step, 10) for step in (0, 10, 12)] == pytest.approx([1.0, 0.0, 0.0])


def test_muon_steps_as_the_two_optimizers_of_torch_do() -> None:
    """Muon on the matrices of layers, AdamW on embedding, head and vectors."""
    ours, theirs = tiny(), tiny()
    recipe = Muon(lr=0.01, muon_lr=0.05, momentum=0.9, betas=(0.8, 0.9), weight_decay=0.1, warmup_steps=0)
    take_steps(recipe.optimizer(list(ours.named_parameters())), list(ours.parameters()), range(3))
    tables = [theirs.model.get_input_embeddings().weight, theirs.model.get_output_embeddings().weight]
    matrices = [p for p in theirs.parameters() if p.ndim == 2 and all(p is not table for table in tables)]
    others = [p for p in theirs.parameters() if all(p is not matrix for matrix in matrices)]
    assert matrices
    assert others
    for step in range(3):
        set_gradients(list(theirs.parameters()), step)
        if step == 0:
            muon = torch.optim.Muon(matrices, lr=0.05, momentum=0.9, weight_decay=0.1)
            adam = torch.optim.AdamW(others, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
        muon.step()
        adam.step()
    assert_equal(values(ours), values(theirs))


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_every_parameter_is_stepped(recipe: OptimizerRecipe) -> None:
    module = tiny()
    before = values(module)
    take_steps(recipe.optimizer(list(module.named_parameters())), list(module.parameters()), range(1))
    assert all(not torch.equal(before[name], value) for name, value in values(module).items())


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_a_saved_optimizer_goes_on_as_if_it_had_not_stopped(recipe: OptimizerRecipe) -> None:
    module = tiny()
    made = recipe(module.named_parameters(), 20)
    take_steps(made["optimizer"], list(module.parameters()), range(3), made["lr_scheduler"]["scheduler"])
    file = io.BytesIO()
    torch.save([made["optimizer"].state_dict(), made["lr_scheduler"]["scheduler"].state_dict()], file)
    file.seek(0)
    optimizer_state, schedule_state = torch.load(file, weights_only=True)

    resumed = copy.deepcopy(module)
    remade = recipe(resumed.named_parameters(), 20)
    remade["optimizer"].load_state_dict(optimizer_state)
    remade["lr_scheduler"]["scheduler"].load_state_dict(schedule_state)
    for target, parts in ((module, made), (resumed, remade)):
        take_steps(parts["optimizer"], list(target.parameters()), range(3, 6), parts["lr_scheduler"]["scheduler"])
    rates = [[group["lr"] for group in parts["optimizer"].param_groups] for parts in (made, remade)]
    assert rates[0] == rates[1]
    assert_equal(values(module), values(resumed))


def test_a_forgotten_state_would_be_noticed() -> None:
    """The resumed step depends on the moments: a fresh optimizer takes another one."""
    recipe, module = RECIPES[1], tiny()
    optimizer = recipe.optimizer(list(module.named_parameters()))
    take_steps(optimizer, list(module.parameters()), range(3))
    fresh = copy.deepcopy(module)
    take_steps(optimizer, list(module.parameters()), range(3, 4))
    take_steps(recipe.optimizer(list(fresh.named_parameters())), list(fresh.parameters()), range(3, 4))
    changed = [not torch.equal(value, values(fresh)[name]) for name, value in values(module).items()]
    assert all(changed)


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_gradients_are_cleared_and_a_closure_is_called(recipe: OptimizerRecipe) -> None:
    module = tiny()
    optimizer = recipe.optimizer(list(module.named_parameters()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(torch.tensor([[1, 2, 3]])).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(3)]
    assert losses[2] < losses[0]
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("homogeneous", [True, False])
def test_adamw_moves_every_parameter_of_a_circuit(homogeneous: bool) -> None:
    hmm = HMM(3, 5, 4, homogeneous)
    before = values(hmm)
    take_steps(AdamW(lr=0.1).optimizer(list(hmm.named_parameters())), list(hmm.parameters()), range(1))
    assert all(not torch.equal(before[name], value) for name, value in values(hmm).items())


def test_muon_is_refused_for_a_circuit_which_has_no_matrices() -> None:
    with pytest.raises(UserError, match=r"optimizer=muon.*adamw"):
        Muon(lr=0.1).optimizer(list(HMM(3, 5, 4).named_parameters()))


def test_a_cycle_is_the_schedule_over_its_part_of_the_steps_and_heads_wait() -> None:
    torch.manual_seed(0)
    circuit = ContextualHMM(4, 5, 3, 6, roles=2, adapter_width=16)
    recipe = CyclicAdamW(
        lr=0.2, head_lr=0.05, later_lr=0.04, warmup_steps=2, final_fraction=0.1, cycles=3, static_cycles=1
    )
    total = 26  # cycles of 8, 9 and 9 steps
    made = recipe(circuit.named_parameters(), total)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    tables, heads = optimizer.param_groups
    assert {id(p) for p in tables["params"]} == {id(p) for n, p in circuit.named_parameters() if n.endswith("_logits")}
    plain = AdamW(lr=1.0, warmup_steps=2, final_fraction=0.1)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for cycle, length in enumerate((8, 9, 9)):
        for step in range(length):
            assert recipe.cycle_of(sum((8, 9, 9)[:cycle]) + step, total) == (cycle, step, length)
            assert tables["lr"] == pytest.approx((0.04 if cycle else 0.2) * plain.factor(step, length))
            assert heads["lr"] == pytest.approx(0.05 * plain.factor(step, length) if cycle else 0.0)
            take_steps(optimizer, parameters, range(1), schedule)


def test_one_cycle_is_adamw() -> None:
    torch.manual_seed(0)
    one, other = HMM(4, 5, 3), HMM(4, 5, 3)
    other.load_state_dict(one.state_dict())
    for circuit, recipe in (
        (one, AdamW(lr=0.1, warmup_steps=2)),
        (other, CyclicAdamW(lr=0.1, warmup_steps=2, cycles=1, static_cycles=0)),
    ):
        made = recipe(circuit.named_parameters(), 9)
        take_steps(made["optimizer"], list(circuit.parameters()), range(9), made["lr_scheduler"]["scheduler"])
    assert_equal(values(one), values(other))


def test_a_cycle_starts_with_fresh_moments() -> None:
    torch.manual_seed(0)
    restarted, anew = HMM(4, 5, 3), HMM(4, 5, 3)
    anew.load_state_dict(restarted.state_dict())
    recipe = CyclicAdamW(lr=0.1, warmup_steps=2, cycles=2, static_cycles=0)
    made = recipe(restarted.named_parameters(), 10)
    take_steps(made["optimizer"], list(restarted.parameters()), range(5), made["lr_scheduler"]["scheduler"])
    take_steps(made["optimizer"], list(restarted.parameters()), range(5), made["lr_scheduler"]["scheduler"])
    for _ in range(2):
        made = AdamW(lr=0.1, warmup_steps=2)(anew.named_parameters(), 5)
        take_steps(made["optimizer"], list(anew.parameters()), range(5), made["lr_scheduler"]["scheduler"])
    assert_equal(values(restarted), values(anew))


def test_of_fewer_steps_than_cycles_the_first_cycles_are_left() -> None:
    recipe = CyclicAdamW(lr=0.1, cycles=4, static_cycles=1, alone_cycles=1)
    assert [recipe.cycle_of(step, 3)[0] for step in range(3)] == [0, 1, 2]
    assert [recipe.cycle_of(step, 1)[:2] for step in range(2)] == [(0, 0), (3, 0)]  # the latter after the end


def test_nothing_waits_where_there_are_no_tables() -> None:
    one, other = tiny(), tiny()
    other.load_state_dict(one.state_dict())
    for model, recipe in (
        (one, CyclicAdamW(lr=0.1, warmup_steps=2, cycles=2, static_cycles=1)),
        (other, CyclicAdamW(lr=0.1, warmup_steps=2, cycles=2, static_cycles=0)),
    ):
        made = recipe(model.named_parameters(), 8)
        take_steps(made["optimizer"], list(model.parameters()), range(8), made["lr_scheduler"]["scheduler"])
    assert_equal(values(one), values(other))


def test_cycles_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer.static_cycles=4 must be less than optimizer.cycles=4"):
        CyclicAdamW(lr=0.1, cycles=4, static_cycles=4)
    with pytest.raises(UserError, match=r"static_cycles=1 and optimizer.alone_cycles=3 together must be less than"):
        CyclicAdamW(lr=0.1, cycles=4, static_cycles=1, alone_cycles=3)
