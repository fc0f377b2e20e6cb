"""How to decode: one frozen, checked set of options."""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from codd_lightning.decoding.commit import COMMIT, INDEPENDENCE
from codd_lightning.decoding.proposals import PROPOSALS
from codd_lightning.decoding.remasking import REMASKING
from codd_lightning.errors import UserError

PARADIGMS = ("block", "full")
SCHEDULES = ("even", "times")
CACHES = ("none", "prefix", "dual")
EOS_RULES = ("any", "last")
# Log-probabilities divided by less overflow float32.
LEAST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class DecodingConfig:
    """Options of `generate`, checked at construction.

    Attributes:
        paradigm: "block": blocks from left to right, each denoised in its share of the steps (paper Algorithm 1);
            "full": the whole response at once, the circuit acting on the fewest windows of `block_length` that cover
            what a step commits (paper Algorithm 2).
        proposal: how the tokens of one step are drawn; None: "any_order" with a circuit, "factorized" without.
        remasking: how positions are ranked: "low_confidence", "margin", "entropy", "left_to_right" or "random".
        steps: denoising steps of the whole response, spread evenly over its blocks, the remainder first; with a
            commit rule other than "quota" their number is an outcome, and this says nothing.
        schedule: of the quotas: "even", the remainder first, or "times", as Dream spends its time.
        commit: how many positions a step commits: "quota", or by their confidence "threshold", "factor",
            "entropy_bound" or "joint" (see `codd_lightning.decoding.commit`); or "independence": those that further
            passes of the backbone find not to influence each other (see `codd_lightning.decoding.independence`).
        commit_bound: of such a rule; None with "quota".
        commit_reads: the distribution that such a rule reads: "backbone", or "circuit" where one acts.
        max_new_tokens: length of the response.
        block_length: of one block or window; the last one may be shorter.
        gamma: the circuit acts while the share of masked tokens is at most this.
        gamma_share: of the "window" (or block) that the circuit acts on, or of the whole "response".
        strict_gamma: "less than" instead of "at most", as in the paper.
        reverse_gamma: the circuit acts while the share is at least (more than) gamma instead.
        tau: sharpening of the coupled distribution; 0 takes the most probable.
        temperature: of the backbone's own distribution where it is sampled; 0 is greedy.
        top_p, top_k: sample from the smallest set of tokens with this mass, or from this many; None for all.
        suppress_tokens: ids that are never proposed.
        cfg_scale: strength of classifier-free guidance (LLaDA); 0 for none. A guided step counts two passes.
        eos: "any": EOS is committed like any token; "last": only where no mask is left of it, outside the quota.
        stop_at_eos: a row is finished, and costs nothing more, once no mask is left of an EOS.
        evidence_top_k: tokens per position that evidence keeps, the only ones that are proposed; None for all.
        cache: of keys and values in block diffusion (Fast-dLLM): "none" is exact; "prefix" computes the tokens before
            a block once a block, "dual" those after it as well. Faster, and other texts.
        trace: record every step.

    Raises:
        UserError: an option is out of its range; names it and its value.
    """

    paradigm: str = "block"
    proposal: str | None = None
    remasking: str = "low_confidence"
    steps: int = 32
    schedule: str = "even"
    commit: str = "quota"
    commit_bound: float | None = None
    commit_reads: str = "backbone"
    max_new_tokens: int = 64
    block_length: int = 32
    gamma: float = 1.0
    gamma_share: str = "window"
    strict_gamma: bool = False
    reverse_gamma: bool = False
    tau: float = 0.0
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    cfg_scale: float = 0.0
    eos: str = "any"
    stop_at_eos: bool = True
    evidence_top_k: int | None = None
    cache: str = "none"
    trace: bool = False

    def __post_init__(self) -> None:
        _one_of("paradigm", self.paradigm, PARADIGMS)
        _one_of("remasking", self.remasking, tuple(REMASKING))
        _one_of("eos", self.eos, EOS_RULES)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("commit", self.commit, ("quota", *COMMIT, INDEPENDENCE))
        _one_of("commit_reads", self.commit_reads, ("backbone", "circuit"))
        _one_of("gamma_share", self.gamma_share, ("window", "response"))
        _one_of("cache", self.cache, CACHES)
        if self.proposal is not None:
            _one_of("proposal", self.proposal, tuple(PROPOSALS))
        if self.eos == "last" and not self.stop_at_eos:
            raise UserError("decoding.eos=last ends a response at its EOS, so it needs decoding.stop_at_eos=true")
        for name in ("steps", "max_new_tokens", "block_length"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise UserError(f"decoding.{name}={value} must be at least 1")
        if not all(isinstance(token, Integral) for token in self.suppress_tokens):
            raise UserError(f"decoding.suppress_tokens={self.suppress_tokens!r} must be token ids")
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
        self._check_commit()
        if self.cache != "none" and self.paradigm != "block":
            raise UserError(f"decoding.cache={self.cache} is for decoding.paradigm=block")
        if self.commit == "quota" and self.paradigm == "block" and self.steps < self.blocks:
            raise UserError(
                f"decoding.steps={self.steps} is less than one for each of the {self.blocks} blocks of "
                f"{self.max_new_tokens} tokens"
            )

    def _check_commit(self) -> None:
        if self.commit == "quota":
            if self.commit_bound is not None:
                raise UserError(f"decoding.commit_bound={self.commit_bound} has no effect with decoding.commit=quota")
            if self.commit_reads != "backbone":
                raise UserError(f"decoding.commit_reads={self.commit_reads} has no effect with decoding.commit=quota")
            return
        if self.commit_bound is None:
            raise UserError(f"decoding.commit={self.commit} needs a decoding.commit_bound")
        if not isinstance(self.commit_bound, Real) or isinstance(self.commit_bound, bool):
            raise UserError(f"decoding.commit_bound={self.commit_bound!r} is not a number")
        probability = self.commit in ("threshold", "joint")
        if not 0.0 <= self.commit_bound < (1.0 if probability else math.inf):
            below = "below 1, as a probability" if probability else "finite"
            raise UserError(f"decoding.commit_bound={self.commit_bound} must be 0 or more, and {below}")
        if self.schedule != "even":
            raise UserError(f"decoding.schedule={self.schedule} has no effect with decoding.commit={self.commit}")
        if self.commit == INDEPENDENCE and self.paradigm != "block":
            raise UserError("decoding.commit=independence is for decoding.paradigm=block")
        if self.commit == INDEPENDENCE and self.proposal == "factorized" and self.remasking != "low_confidence":
            raise UserError(
                f"decoding.remasking={self.remasking} has no effect with decoding.commit=independence, which commits "
                "all it finds, and decoding.proposal=factorized, which draws them in no order"
            )
        if self.commit == INDEPENDENCE and self.commit_reads == "circuit":
            raise UserError("decoding.commit_reads=circuit has no effect with decoding.commit=independence")
        if self.commit_reads == "circuit" and self.paradigm != "block":
            raise UserError("decoding.commit_reads=circuit is for decoding.paradigm=block")
        if self.commit_reads == "circuit" and self.proposal == "factorized":
            raise UserError("decoding.commit_reads=circuit has no effect with decoding.proposal=factorized")
        if self.commit_reads == "circuit" and self.proposal is not None and PROPOSALS[self.proposal].tempers_evidence:
            raise UserError(
                f"decoding.proposal={self.proposal} tempers what the circuit is told, which a rule cannot read: "
                "use decoding.commit_reads=backbone"
            )
        if self.commit in COMMIT and self.remasking == "random":
            raise UserError(
                f"decoding.commit={self.commit} commits the best-ranked positions, which decoding.remasking=random "
                "does not know before it draws them"
            )

    @property
    def blocks(self) -> int:
        """Blocks in the response."""
        return -(-self.max_new_tokens // self.block_length)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "DecodingConfig":
        """A named set of options.

        "reference" does what the original loops of LLaDA and Dream do, greedily, and "dream" is what Dream's authors
        sample with.

        Raises:
            UserError: there is no such preset.
        """
        if name not in PRESETS:
            raise UserError(f"decoding preset {name!r} is not one of {', '.join(PRESETS)}")
        config = cls(**{**PRESETS[name], **overrides})
        if name != "reference":
            return config
        if config.paradigm == "full":
            return config.replace(schedule="times")
        return config.replace(steps=config.steps // config.blocks * config.blocks)

    def replace(self, **changes: Any) -> "DecodingConfig":
        """The same options with some changed."""
        return dataclasses.replace(self, **changes)


# The original loops decode greedily, never stop at EOS, know no circuit, and drop steps left over by the blocks.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"proposal": "factorized", "temperature": 0.0, "eos": "any", "stop_at_eos": False},
    "dream": {"paradigm": "full", "schedule": "times", "remasking": "entropy", "temperature": 0.2, "top_p": 0.95},
}


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"decoding.{name}={value} is not one of {', '.join(known)}")
