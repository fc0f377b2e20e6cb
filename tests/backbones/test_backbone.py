import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from codd_lightning.backbones import Backbone, BackboneLike, as_backbone, device_of
from codd_lightning.backbones.loading import require_bidirectional
from codd_lightning.errors import UserError

from .fixtures import NAMES, loaded, reference

CLOSE = {"atol": 1e-5, "rtol": 0.0}


def random_ids(vocab_size: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


# Logits where they are asked for


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [[5], [0, 1, 23], [22, 3, 3]])
def test_predictions_at_some_columns_are_columns_of_all_logits(name: str, columns: list[int]) -> None:
    backbone, ids, positions = loaded(name), reference(name)["input_ids"], torch.tensor(columns)
    assert_close(backbone.predict(ids, positions).logits, backbone(ids)[:, positions], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_at_positions_of_each_row_are_entries_of_all_logits(name: str) -> None:
    backbone, ids = loaded(name), reference(name)["input_ids"]
    positions = torch.tensor([[0, 7], [23, 1], [4, 4]])
    expected = backbone(ids)[torch.arange(3)[:, None], positions]
    assert_close(backbone.predict(ids, positions).logits, expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [slice(15, None), slice(9)])
def test_predictions_at_positions_heed_the_attention_mask(name: str, padding: slice) -> None:
    backbone, ids = loaded(name), reference(name)["input_ids"]
    attention_mask = torch.ones_like(ids)
    attention_mask[1, padding] = 0
    full = backbone(ids, attention_mask)
    for positions in (torch.tensor([9, 14]), torch.tensor([[0, 23], [14, 9], [1, 1]])):
        found = backbone.predict(ids, positions, attention_mask=attention_mask).logits
        expected = full[torch.arange(3)[:, None], positions.expand(3, -1)]
        assert_close(found, expected, **CLOSE)
        assert (found[1] - backbone.predict(ids, positions).logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", [None, torch.tensor([0, 5])])
def test_hidden_states_are_those_the_logits_come_from(name: str, positions: Tensor | None) -> None:
    backbone, ids = loaded(name), reference(name)["input_ids"]
    prediction = backbone.predict(ids, positions)
    assert prediction.hidden is not None
    assert prediction.hidden.shape == (*prediction.logits.shape[:2], 32)
    assert_close(prediction.hidden @ backbone.model.lm_head.weight.T, prediction.logits, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_is_as_wide_as_the_logits(name: str) -> None:
    backbone, ids = loaded(name), reference(name)["input_ids"]
    assert backbone(ids).shape == (*ids.shape, backbone.vocab_size)


# Batches and padding


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_row_do_not_depend_on_its_batch(name: str) -> None:
    backbone, ids = loaded(name), reference(name)["input_ids"]
    together = backbone(ids)
    for row in range(len(ids)):
        assert_close(backbone(ids[row : row + 1])[0], together[row], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_row_do_not_depend_on_its_padding(name: str, attention: str, side: str) -> None:
    backbone = loaded(name, attention)
    lengths = (9, 24, 1, 17)
    batch, mask = random_ids(190, len(lengths), 24), torch.zeros(len(lengths), 24, dtype=torch.long)
    for row, length in enumerate(lengths):  # what stands in the padding is anything
        mask[row, slice(24 - length, None) if side == "left" else slice(length)] = 1
    for mask_type in (torch.long, torch.bool):
        together = backbone(batch, mask.to(mask_type))
        for row in range(len(lengths)):
            real = mask[row].bool()
            assert_close(together[row, real], backbone(batch[row, real][None])[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_token_changes_earlier_logits(name: str) -> None:
    backbone, ids = loaded(name), reference(name)["input_ids"][:1]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 190
    assert (backbone(ids)[:, 0] - backbone(other)[:, 0]).abs().max() > 1e-6


# Causal models


def causal(is_causal: bool) -> Backbone:
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        is_causal=is_causal,
    )
    return Backbone(LlamaForCausalLM(config).eval(), mask_token_id=0, eos_token_ids=[1])


def test_a_causal_model_is_refused_by_the_name_of_its_class() -> None:
    with pytest.raises(UserError, match="LlamaForCausalLM is causal"):
        require_bidirectional(causal(True))


@pytest.mark.parametrize("mask_token_id", [0, 7])
def test_a_bidirectional_model_passes(mask_token_id: int) -> None:
    backbone = causal(False)
    backbone.mask_token_id = mask_token_id
    require_bidirectional(backbone)


# Any other module


class Stub(nn.Module):
    """A backbone of the user's own: the four attributes, forward, no parameters, no tokenizer."""

    mask_token_id = 4
    vocab_size = 5
    tokenizer = None
    eos_token_ids = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor | None] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.masks.append(attention_mask)
        positions = torch.arange(input_ids.shape[1])[None, :, None]
        return 100.0 * input_ids[..., None] + 10.0 * positions + torch.arange(5)


def test_a_stub_becomes_a_backbone_with_its_attributes() -> None:
    stub = Stub()
    assert isinstance(stub, BackboneLike)
    backbone = as_backbone(stub)
    assert (backbone.mask_token_id, backbone.vocab_size, backbone.eos_token_ids) == (4, 5, [3])
    assert backbone.tokenizer is None
    assert device_of(backbone) == torch.device("cpu")
    ids = random_ids(5, 2, 6)
    assert torch.equal(backbone(ids), stub(ids))


def test_a_stub_answers_predictions_by_its_full_call() -> None:
    stub, ids = Stub(), random_ids(5, 2, 6)
    backbone, full = as_backbone(stub), stub(ids)
    everywhere = backbone.predict(ids)
    assert everywhere.hidden is None
    assert torch.equal(everywhere.logits, full)
    assert torch.equal(backbone.predict(ids, torch.tensor([4, 0, 4])).logits, full[:, [4, 0, 4]])
    per_row = torch.tensor([[5, 0], [1, 2]])
    assert torch.equal(backbone.predict(ids, per_row).logits, full[torch.arange(2)[:, None], per_row])


def test_a_stub_is_given_the_attention_mask() -> None:
    stub, ids, mask = Stub(), random_ids(5, 2, 6), torch.ones(2, 6, dtype=torch.long)
    backbone = as_backbone(stub)
    backbone(ids, mask)
    backbone.predict(ids, attention_mask=mask)
    assert [given is mask for given in stub.masks] == [True, True]


def test_what_predicts_already_is_taken_as_it_is() -> None:
    backbone = loaded("llada-tiny")
    assert as_backbone(backbone) is backbone
    adapter = as_backbone(Stub())
    assert as_backbone(adapter) is adapter


def test_what_lacks_an_attribute_is_no_backbone() -> None:
    assert not isinstance(nn.Linear(2, 2), BackboneLike)


def test_the_device_is_that_of_the_parameters_or_buffers() -> None:
    buffered = nn.Module()
    buffered.register_buffer("scale", torch.ones(1, device="meta"))
    assert device_of(buffered) == torch.device("meta")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.Linear(2, 2)) == torch.device("cpu")
    assert device_of(lambda ids: ids) == torch.device("cpu")
