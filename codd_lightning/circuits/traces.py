"""What a circuit makes of text: the states behind it, and what each lets expect next."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits.circuit import Circuit
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.tables import CHUNK

COLUMNS = 512  # the most frequent tokens, which are told apart in what states expect


@dataclass(frozen=True)
class Traces:
    """What a circuit makes of text: the states behind it, and what each of them expects next.

    Attributes:
        tokens: `(B, L)` long.
        states: `(B, L)` long, drawn from the posterior given all tokens.
        columns: `(B, L)` long: the token's column of `expected`; the last is that of all that are rare.
        expected: `(B, L, W)`: `P(x_i | z_{i-1}, evidence)`; of no use at the first position.
        expected_states: `(B, L, N)`: the same of the state there.
        said: `(B, L, W)`: `P(x_i | z_i, evidence)`.
    """

    tokens: Tensor
    states: Tensor
    columns: Tensor
    expected: Tensor
    expected_states: Tensor
    said: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, circuit: Circuit, text: Iterable[tuple[Tensor, Evidence]], generator: torch.Generator) -> "Traces":
        """Traces of the batches of a text.

        Args:
            circuit: whose core is an HMM.
            text: tokens of blocks, and evidence of them; where it knows a token, nothing is expected of it.
            generator: draws the states, on the CPU.
        """
        core = circuit.core
        assert isinstance(core, HMM), "told apart before"
        batches = [circuit.as_core_reads(tokens, evidence) for tokens, evidence in text]
        frequent = torch.cat([tokens.flatten() for tokens, _ in batches]).bincount(minlength=core.vocab_size)
        kept = frequent.topk(min(COLUMNS, core.vocab_size)).indices
        column = frequent.new_full((core.vocab_size,), len(kept)).index_put((kept,), torch.arange(len(kept)).to(kept))

        def by_column(distribution: Tensor) -> Tensor:
            rest = distribution.sum(-1, keepdim=True) - distribution[..., kept].sum(-1, keepdim=True)
            return torch.cat([distribution[..., kept], rest.clamp_min(0.0)], -1)

        parts = []
        for all_tokens, all_evidence in batches:
            at_once = max(CHUNK // (all_tokens.shape[1] * core.vocab_size), 1)
            for rows in torch.arange(len(all_tokens), device=all_tokens.device).split(at_once):
                tokens, evidence = all_tokens[rows], core.prepare(all_evidence.rows(rows))
                states = core.posterior(evidence.clamp(tokens, evidence.soft)).sample_latents(generator)
                expected_states, expected = core.expected_after(evidence, states)
                said = core.posterior(evidence).token_distribution(states)
                labels = core.state_of(states, evidence)
                found = (tokens, labels, column[tokens], by_column(expected), expected_states, by_column(said))
                parts.append([part.cpu() for part in found])
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))
