"""Tiny circuits, with evidence for them, beside the same things as enumeration sees them."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from codd_lightning.circuits import HMM, Evidence

from .enumeration import Array, Model, soft_weights, softmax

SETTINGS = settings(deadline=None, max_examples=40, derandomize=True, database=None)


def model_of(hmm: HMM) -> Model:
    """The distributions of a circuit, from its raw parameters."""
    initial, transition, emission = (
        p.detach().double().numpy() for p in (hmm.initial_logits, hmm.transition_logits, hmm.emission_logits)
    )
    length = hmm.block_length
    if hmm.homogeneous:
        transition, emission = transition.repeat(length - 1, axis=0), emission.repeat(length, axis=0)
    return Model(softmax(initial), softmax(transition), softmax(emission.swapaxes(1, 2)))


def random_hmm(num_states: int, vocab_size: int, block_length: int, homogeneous: bool = True, seed: int = 0) -> HMM:
    """A float64 circuit with spread-out parameters."""
    hmm = HMM(num_states, vocab_size, block_length, homogeneous).double()
    hmm.reset_parameters(torch.Generator().manual_seed(seed))
    return hmm


@st.composite
def tiny_hmms(draw: st.DrawFn, max_length: int = 4) -> HMM:
    return random_hmm(
        num_states=draw(st.integers(1, 3)),
        vocab_size=draw(st.integers(2, 4)),
        block_length=draw(st.integers(1, max_length)),
        homogeneous=draw(st.booleans()),
        seed=draw(st.integers(0, 10_000)),
    )


@dataclass(frozen=True)
class Case:
    """A circuit and evidence, and what enumeration reads in them.

    Attributes:
        arguments: what the evidence was made of, by keyword of `Evidence.from_logits`.
        weights: `(B, L, V)`, of every token at every position.
        potentials: `(B, L, N)`, zero where the evidence has none.
    """

    hmm: HMM
    model: Model
    arguments: dict
    evidence: Evidence
    weights: Array
    potentials: Array
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.evidence.batch_size, self.evidence.length

    @property
    def absent(self) -> np.ndarray:
        absent = self.arguments["absent"]
        return np.zeros(self.shape, dtype=bool) if absent is None else absent.numpy()

    def table(self, row: int) -> Array:
        return self.model.table(self.weights[row], self.potentials[row])

    def random_tokens(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randint(self.hmm.vocab_size, self.shape, generator=generator)


def weights_of(arguments: dict) -> Array:
    """`(B, L, V)` weights of every token, read off the arguments of `Evidence.from_logits`."""
    logits, tokens = arguments["logits"].double().numpy(), arguments["tokens"].numpy()
    weights = np.zeros(logits.shape)
    for row, position in np.ndindex(tokens.shape):
        if arguments["absent"] is not None and arguments["absent"][row, position]:
            weights[row, position] = 1.0
        elif tokens[row, position] != arguments["mask_token_id"]:
            weights[row, position, tokens[row, position]] = 1.0
        else:
            keep = None if arguments["keep"] is None else int(arguments["keep"][row, position])
            weights[row, position] = soft_weights(
                logits[row, position], arguments["temperature"], arguments["mask_token_id"], arguments["top_k"], keep
            )
    return weights


def make_case(
    hmm: HMM,
    *,
    batch_size: int = 2,
    length: int | None = None,
    seed: int = 0,
    observed: float = 0.4,
    absent: float = 0.0,
    top_k: int | None = None,
    keep: bool = False,
    temperature: float = 1.0,
    potentials: bool = False,
) -> Case:
    """Random evidence for a circuit; `observed` and `absent` are chances of a position, and may meet in one."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, length or hmm.block_length)
    mask_token_id = hmm.vocab_size  # outside the vocabulary

    def chance(p: float) -> Tensor:
        return torch.rand(shape, generator=generator) < p

    def tokens() -> Tensor:
        return torch.randint(hmm.vocab_size, shape, generator=generator)

    arguments = {
        "logits": 2 * torch.randn(*shape, hmm.vocab_size, generator=generator, dtype=torch.float64),
        "tokens": tokens().masked_fill(~chance(observed), mask_token_id),
        "mask_token_id": mask_token_id,
        "temperature": temperature,
        "top_k": top_k,
        "keep": tokens() if keep else None,
        "absent": chance(absent) if absent else None,
        "latent_potentials": (
            torch.randn(*shape, hmm.num_states, generator=generator, dtype=torch.float64) if potentials else None
        ),
    }
    phi = arguments["latent_potentials"]
    return Case(
        hmm=hmm,
        model=model_of(hmm),
        arguments=arguments,
        evidence=Evidence.from_logits(**arguments),
        weights=weights_of(arguments),
        potentials=np.zeros((*shape, hmm.num_states)) if phi is None else phi.numpy(),
        seed=seed,
    )


@st.composite
def cases(
    draw: st.DrawFn, max_length: int = 4, absent: bool = True, potentials: bool = True, truncated: bool = True
) -> Case:
    """Any mix of known, soft and absent positions; dense or truncated; with or without latent potentials."""
    hmm = draw(tiny_hmms(max_length))
    top_k = draw(st.none() | st.integers(1, hmm.vocab_size)) if truncated else None
    return make_case(
        hmm,
        batch_size=draw(st.integers(1, 3)),
        length=draw(st.integers(1, hmm.block_length)),
        seed=draw(st.integers(0, 10_000)),
        observed=draw(st.sampled_from([0.0, 0.4, 1.0])),
        absent=draw(st.sampled_from([0.0, 0.3])) if absent else 0.0,
        top_k=top_k,
        keep=draw(st.booleans()),
        temperature=draw(st.sampled_from([0.3, 1.0, 2.5])),
        potentials=draw(st.booleans()) if potentials else False,
    )
