"""Backbones spread over devices, or in 8 and 4 bits."""

from importlib.util import find_spec

import pytest
import torch
from torch.testing import assert_close

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM
from codd_lightning.errors import UserError
from codd_lightning.modules import AdamW, BackboneModule, CircuitModule, Noise

from .fixtures import FIXTURES, reference

NAME = "a2d-qwen3-tiny"
needs_packages = pytest.mark.skipif(
    find_spec("accelerate") is None or find_spec("bitsandbytes") is None,
    reason="accelerate and bitsandbytes are not installed",
)


def bytes_of_layers(backbone: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for name, p in backbone.named_parameters() if "proj" in name)


@needs_packages
def test_a_device_map_changes_no_logit() -> None:
    expected = reference(NAME)
    with torch.no_grad():
        found = load_backbone(FIXTURES / NAME, device_map="auto")(expected["input_ids"])
    assert_close(found, expected["logits"], atol=1e-4, rtol=0.0)


@needs_packages
@pytest.mark.parametrize(("quantization", "share", "most_error"), [("8bit", 4, 0.03), ("4bit", 8, 0.5)])
def test_layers_take_fewer_bits_and_say_nearly_the_same(quantization: str, share: int, most_error: float) -> None:
    whole = load_backbone("codd_tiny")  # of width 128: some processors take 4 bits in blocks of 64 only
    backbone = load_backbone("codd_tiny", quantization=quantization)
    assert bytes_of_layers(backbone) * share == bytes_of_layers(whole)
    canvas = torch.randint(whole.vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = whole(canvas), backbone(canvas)
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < most_error


@needs_packages
def test_quantised_weights_are_not_trained_but_a_circuit_on_them_is() -> None:
    backbone = load_backbone(FIXTURES / NAME, quantization="8bit")
    noise = Noise("uniform", 8, 0.0, 0)
    with pytest.raises(UserError, match=r"backbone\.quantization.*cannot be trained"):
        BackboneModule(backbone, noise, "flat", AdamW(lr=0.1))
    module = CircuitModule(backbone, HMM(4, backbone.vocab_size, 8), noise, "flat", AdamW(lr=0.1))
    weights = {name: value + 1.0 for name, value in module.state_dict().items() if name.startswith("circuit.")}
    module.load_state_dict(weights)
    assert_close(module.circuit.emission_logits, weights["circuit.emission_logits"])
    with pytest.raises(RuntimeError, match=r"missing: circuit\.emission_logits; unexpected: other"):
        module.load_state_dict({name: weights[name] for name in weights if "emission" not in name} | {"other": 1})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device_map": "balanced"}, r"backbone\.device_map=balanced is not auto"),
        ({"quantization": "2bit"}, r"backbone\.quantization=2bit is not one of 8bit, 4bit"),
        ({"quantization": "8bit", "device": "meta"}, "needs whole weights"),
        ({"device_map": "auto", "device": "meta"}, r"leave out backbone\.device=meta"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_backbone(FIXTURES / NAME, **options)


@pytest.mark.parametrize(
    ("options", "package"),
    [({"device_map": "auto"}, "accelerate"), ({"quantization": "8bit"}, "bitsandbytes")],
)
def test_a_package_that_is_missing_is_named(
    options: dict[str, str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "codd_lightning.backbones.placement.find_spec", lambda name: None if name == package else object()
    )
    (option,) = options
    with pytest.raises(UserError, match=rf"backbone\.{option}=\w+ needs the package {package}: pip install {package}"):
        load_backbone(FIXTURES / NAME, **options)
