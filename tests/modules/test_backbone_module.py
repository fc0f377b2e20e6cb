"""Training of a backbone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from codd_lightning.data import Batch
from codd_lightning.errors import UserError
from codd_lightning.modules import AdamW, BackboneModule, Muon, Noise, OptimizerRecipe

from .helpers import BLOCK, backbone_of, data_of, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

RECIPES: list[OptimizerRecipe] = [AdamW(lr=0.01, warmup_steps=0), Muon(lr=0.01, muon_lr=0.02, warmup_steps=0)]


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


ROWS = [(text(*[i % 5] * (1 + i % 3)), text(*[i % 5] * (1 + i % 6))) for i in range(24)]


def module_of(noise: Noise | None = None, weight: str = "inverse_t", recipe: OptimizerRecipe = RECIPES[0]) -> Any:
    module: Any = BackboneModule(backbone_of(), noise or Noise(block_length=BLOCK), weight, recipe)
    module.log = lambda *args, **kwargs: None  # outside a trainer
    return module


@pytest.fixture
def batch(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> Batch:
    data = data_of(listed_task(train=ROWS), words, 8, "block")
    dataset = data.dataset("train")
    return data.collate([dataset[i] for i in range(8)])


@pytest.mark.parametrize("canvas", ["uniform", "block"])
@pytest.mark.parametrize("weight", ["inverse_t", "per_token", "flat"])
def test_the_loss_is_the_weighted_negative_log_likelihood_of_the_scored_tokens(
    weight: str, canvas: str, batch: Batch
) -> None:
    noise = Noise(canvas=canvas, block_length=BLOCK, seed=3)
    module = module_of(noise, weight)
    noised = noise(batch, module.backbone.mask_token_id, 0, "training noise")
    logits = module.backbone(noised.canvas, batch.attention_mask).detach().double()
    loss = 0.0
    for row in range(len(batch)):
        scored = [c for c in range(batch.input_ids.shape[1]) if noised.scored[row, c]]
        t, candidates = float(noised.t[row]), int(noised.candidates[row])
        factor = {"inverse_t": 1 / (t * candidates), "per_token": 1 / max(len(scored), 1), "flat": 1 / candidates}
        for column in scored:
            scores = logits[row, column].tolist()
            log_normalizer = math.log(sum(math.exp(score) for score in scores))
            nll = log_normalizer - scores[int(batch.input_ids[row, column])]
            loss += factor[weight] * nll / len(batch)
    torch.testing.assert_close(float(module.training_step(batch, 0).detach()), loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=["adamw", "muon"])
def test_a_step_lowers_the_loss_of_its_batch_and_reaches_every_parameter(recipe: OptimizerRecipe, batch: Batch) -> None:
    module = module_of(recipe=recipe)
    optimizer = recipe(module.backbone.named_parameters(), 10)["optimizer"]
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    loss = module.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    assert float(module.training_step(batch, 0).detach()) < float(loss.detach())
    assert all(not torch.equal(before[name], value) for name, value in module.named_parameters())


def test_training_lowers_the_validation_likelihood(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    data = data_of(listed_task(train=ROWS, validation=ROWS[:8]), words, 8, "block")
    module = BackboneModule(backbone_of(), Noise(block_length=BLOCK), "inverse_t", RECIPES[1])

    before = trainer_of(limit_val_batches=1).validate(module, datamodule=data, verbose=False)[0][
        "validation/nll_per_masked_token"
    ]
    trainer_of(max_epochs=8, limit_val_batches=1).fit(module, datamodule=data)
    after = trainer_of(limit_val_batches=1).validate(module, datamodule=data, verbose=False)[0][
        "validation/nll_per_masked_token"
    ]
    assert after < 0.7 * before


def test_a_batch_without_a_masked_token_costs_nothing_and_logs_no_nan(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of()
    noised = module.noise(batch, module.backbone.mask_token_id, 0, "training noise")
    nothing = torch.zeros_like(noised.masked)
    clean = type(noised)(batch.input_ids, nothing, nothing, noised.candidates, noised.t)
    monkeypatch.setattr(Noise, "__call__", lambda *args: clean)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **options: logged.update({name: float(value)})
    with torch.no_grad():
        assert float(module.training_step(batch, 0)) == 0.0
        module.validation_step(batch, 0)
    assert all(value == value for value in logged.values())


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.weight=none.*flat"):
        module_of(weight="none")
