"""How to decode: one frozen, checked set of options."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from codd_lightning.decoding.proposals import PROPOSALS
from codd_lightning.decoding.remasking import REMASKING
from codd_lightning.errors import UserError

PARADIGMS = ("block",)
EOS_RULES = ("any", "last")
# Log-probabilities divided by less overflow float32.
LEAST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class DecodingConfig:
    """Options of `generate`, checked at construction.

    Attributes:
        paradigm: "block": blocks from left to right, each denoised in its share of the steps.
        proposal: how the tokens of one step are drawn; None: "any_order" with a circuit, "factorized" without.
        remasking: how positions are ranked: "low_confidence", "margin", "entropy", "left_to_right" or "random".
        steps: denoising steps of the whole response, spread evenly over its blocks, the remainder first.
        max_new_tokens: length of the response.
        block_length: of one block; the last one may be shorter.
        gamma: the circuit acts while the share of masked tokens in its block is at most this.
        tau: sharpening of the coupled distribution; 0 takes the most probable.
        temperature: of the backbone's own distribution where it is sampled; 0 is greedy.
        top_p, top_k: sample from the smallest set of tokens with this mass, or from this many; None for all.
        cfg_scale: strength of classifier-free guidance (LLaDA); 0 for none. A guided step counts two passes.
        eos: "any": EOS is committed like any token; "last": only where no mask is left of it, outside the quota.
        stop_at_eos: a row is finished, and costs nothing more, once no mask is left of an EOS.
        evidence_top_k: tokens per position that evidence keeps; None for all.
        trace: record every step.

    Raises:
        UserError: an option is out of its range; names it and its value.
    """

    paradigm: str = "block"
    proposal: str | None = None
    remasking: str = "low_confidence"
    steps: int = 32
    max_new_tokens: int = 64
    block_length: int = 32
    gamma: float = 1.0
    tau: float = 0.0
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    cfg_scale: float = 0.0
    eos: str = "any"
    stop_at_eos: bool = True
    evidence_top_k: int | None = None
    trace: bool = False

    def __post_init__(self) -> None:
        _one_of("paradigm", self.paradigm, PARADIGMS)
        _one_of("remasking", self.remasking, tuple(REMASKING))
        _one_of("eos", self.eos, EOS_RULES)
        if self.proposal is not None:
            _one_of("proposal", self.proposal, tuple(PROPOSALS))
        if self.eos == "last" and not self.stop_at_eos:
            raise UserError("decoding.eos=last ends a response at its EOS, so it needs decoding.stop_at_eos=true")
        for name in ("steps", "max_new_tokens", "block_length"):
            if getattr(self, name) < 1:
                raise UserError(f"decoding.{name}={getattr(self, name)} must be at least 1")
        if not 0.0 <= self.gamma <= 1.0:
            raise UserError(f"decoding.gamma={self.gamma} is a share of masked tokens: from 0 to 1")
        for name in ("tau", "temperature"):
            if getattr(self, name) != 0.0 and not LEAST_TEMPERATURE <= getattr(self, name) < math.inf:
                raise UserError(
                    f"decoding.{name}={getattr(self, name)} must be 0 (the most probable) or at least "
                    f"{LEAST_TEMPERATURE:g}, and finite"
                )
        if not 0.0 <= self.cfg_scale < math.inf:
            raise UserError(f"decoding.cfg_scale={self.cfg_scale} must be 0 or more, and finite")
        for name in ("top_k", "evidence_top_k"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"decoding.{name}={getattr(self, name)} must be at least 1")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise UserError(f"decoding.top_p={self.top_p} is a probability mass: above 0, at most 1")
        if self.steps < self.blocks:
            raise UserError(
                f"decoding.steps={self.steps} is less than one for each of the {self.blocks} blocks of "
                f"{self.max_new_tokens} tokens"
            )

    @property
    def blocks(self) -> int:
        """Blocks in the response."""
        return -(-self.max_new_tokens // self.block_length)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "DecodingConfig":
        """A named set of options; "reference" does what the original loops of LLaDA and Dream do.

        Raises:
            UserError: there is no such preset.
        """
        if name not in PRESETS:
            raise UserError(f"decoding preset {name!r} is not one of {', '.join(PRESETS)}")
        config = cls(**{**PRESETS[name], **overrides})
        return config.replace(steps=config.steps // config.blocks * config.blocks) if name == "reference" else config

    def replace(self, **changes: Any) -> "DecodingConfig":
        """The same options with some changed."""
        return dataclasses.replace(self, **changes)


# The original loops decode greedily, never stop at EOS, know no circuit, and drop steps left over by the blocks.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"proposal": "factorized", "temperature": 0.0, "eos": "any", "stop_at_eos": False},
}


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"decoding.{name}={value} is not one of {', '.join(known)}")
