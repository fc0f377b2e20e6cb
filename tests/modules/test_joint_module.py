"""Training of a circuit and its backbone together."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from codd_lightning.circuits import HMM
from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.modules import AdamW, CyclicAdamW, JointModule, Muon, Noise

from .helpers import BLOCK, backbone_of, data_of, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

# the second word repeats the first: what the block says together, no position says alone
ROWS = [(f"w{i % 5}", f"w{i % 4} w{i % 4} w7") for i in range(32)]


def module_of(**options: Any) -> JointModule:
    circuit = HMM(4, 24, BLOCK)
    circuit.reset_parameters(torch.Generator().manual_seed(0))
    given = {"weight": "flat", "optimizer": AdamW(lr=0.05, warmup_steps=0), "backbone_lr": 0.01, **options}
    return JointModule(backbone_of(), circuit, Noise(block_length=BLOCK), **given)


def nll_of(module: JointModule, data: TaskDataModule) -> float:
    return trainer_of().validate(module, datamodule=data, verbose=False)[0]["validation/nll_coupled"]


@pytest.fixture
def data(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> TaskDataModule:
    return data_of(listed_task(train=ROWS, validation=ROWS), words, 16)


@pytest.mark.parametrize("top_k", [None, 6])
def test_its_gradients_are_the_slopes_of_the_loss(top_k: int | None, data: TaskDataModule) -> None:
    module = module_of(evidence_top_k=top_k)
    for parent in list(module.modules()):  # transformers' norms are float32 whatever the rest is: noise in a slope
        for name, norm in parent.named_children():
            if type(norm).__name__.endswith("RMSNorm"):
                setattr(parent, name, torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon))
    module.double()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = data.collate([data.dataset("train")[i] for i in range(6)])
    parameters = dict(module.named_parameters())

    def loss() -> torch.Tensor:
        found = module.training_step(batch, 0)
        assert found is not None
        return found

    loss().backward()
    for name in ("embed_tokens.weight", "layers.0.mlp.up_proj.weight"):
        parameter = parameters[f"backbone.model.model.{name}"]
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
        parameter.data += 1e-4 * direction
        above = loss().detach()
        parameter.data -= 2e-4 * direction
        slope = (above - loss().detach()) / 2e-4
        parameter.data += 1e-4 * direction
        torch.testing.assert_close((parameter.grad * direction).sum(), slope, rtol=1e-4, atol=1e-6)


def test_both_learn_and_a_checkpoint_holds_what_did(data: TaskDataModule) -> None:
    module = module_of()
    before = copy.deepcopy(dict(module.named_parameters()))
    untrained = nll_of(module_of(), data)
    trainer_of(max_epochs=8).fit(module, datamodule=data)
    assert not [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
    trained = nll_of(module, data)
    assert trained < untrained - 0.5
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    fresh = module_of()
    fresh.load_state_dict(checkpoint["state_dict"])
    assert nll_of(fresh, data) == trained


def test_low_rank_updates_alone_are_learnt_and_then_merged(data: TaskDataModule) -> None:
    module = module_of(lora_rank=2)
    at_first, canvas = backbone_of(), torch.randint(5, 20, (3, 8), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module.backbone(canvas), at_first(canvas), rtol=0.0, atol=0.0)
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    trainer_of(max_epochs=4).fit(module, datamodule=data)
    assert all(torch.equal(p, frozen[name]) for name, p in module.named_parameters() if name in frozen)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    kept = [name for name in checkpoint["state_dict"] if name.startswith("backbone.")]
    assert kept
    assert all("lora" in name for name in kept)
    assert len(kept) == 2 * 7 * 2  # A and B of the seven matrices of two layers
    learnt = module.backbone(canvas)
    assert not torch.allclose(learnt, at_first(canvas))
    module.finish()
    module.finish()  # there is nothing more to merge
    torch.testing.assert_close(module.backbone(canvas), learnt)
    assert module.backbone.model.state_dict().keys() == at_first.model.state_dict().keys()


@pytest.mark.parametrize("recipe", [Muon(lr=0.1), CyclicAdamW(lr=0.1, alone_cycles=1)])
def test_another_optimizer_is_refused(recipe: Any) -> None:
    with pytest.raises(UserError, match=r"optimizer=adamw|optimizer\.alone_cycles=1: .* use 0"):
        module_of(optimizer=recipe)


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.lora_rank=33 is more .* at most 32"):
        module_of(lora_rank=33)


def test_a_backbone_that_goes_astray_is_blamed_on_its_rate(data: TaskDataModule) -> None:
    with pytest.raises(UserError, match=r"objective\.backbone_lr=1e\+30: at step [1-4] .* use a lower one"):
        trainer_of(max_epochs=2).fit(module_of(backbone_lr=1e30), datamodule=data)


def test_without_peft_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"codd-lightning\[lora\]"):
        module_of(lora_rank=2)
