"""Tables whose emissions belong to blocks: what a state says depends on the context."""

import copy
from typing import Any

import torch
from torch import Tensor

from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.tables import CHUNK, Tables


class BlockTables(Tables):
    """Tables with emissions of its own for each of B blocks, `(B, V, N)`, shared by the positions of a block.

    Evidence is dense. Tables of one block serve any number of completions.

    Args:
        latent, prepared: as of `Tables`.
        log_emission: `(B, V, N)`, columns whose exponentials sum to 1 over V.
    """

    def __init__(self, latent: dict[str, Tensor], log_emission: Tensor, prepared: dict[str, Any]) -> None:
        blocks, _, num_states = log_emission.shape
        normalizer = log_emission.new_zeros(blocks, num_states)
        super().__init__(latent, log_emission.exp(), log_emission, normalizer, prepared=prepared)

    def rows(self, index: Tensor) -> "BlockTables":
        chosen = copy.copy(self)
        for name in ("emission", "emission_logits", "log_normalizer"):
            object.__setattr__(chosen, name, getattr(self, name)[index])
        return chosen

    def log_emission_of(self, tokens: Tensor) -> Tensor:
        table = self.emission_logits.expand(len(tokens), -1, -1)
        return table.gather(1, tokens[..., None].expand(-1, -1, table.shape[-1]))

    def token_distribution(self, latents: Tensor) -> Tensor:
        return self.emission[_rows_of(latents), :, latents]

    def token_mixture(self, states: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is not None:
            return torch.einsum("bn,bvn->bv", states, self.emission)
        return torch.bmm(states, self.emission.transpose(1, 2))

    def emission_among(self, candidates: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        return self.emission[rows[:, None], candidates]

    def emission_of_states(self, candidates: Tensor, latents: Tensor) -> Tensor:
        return self.emission[_rows_of(latents)[..., None], candidates, latents[..., None]]

    def score_of(self, tokens: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        return self.emission[rows, tokens]

    def expected(self, evidence: Evidence, values: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        where = evidence.soft.nonzero(as_tuple=True)
        everywhere = evidence.weights.to(self.dtype).expand(*evidence.soft.shape, -1)
        if weights is not None:
            everywhere = everywhere.new_zeros(everywhere.shape).index_put(where, weights.to(self.dtype))
        table = self.emission if values is None else values
        return torch.matmul(everywhere, table)[where]

    def largest(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        rows, positions = evidence.soft.nonzero(as_tuple=True)
        found = []
        for part in torch.arange(len(rows), device=rows.device).split(max(CHUNK // self.emission[0].numel(), 1)):
            weights = evidence.weights[rows[part], positions[part]].to(self.dtype)
            found.append((self.emission[rows[part]] * weights[..., None]).max(1))
        values, tokens = zip(*found, strict=True)
        return torch.cat(values), torch.cat(tokens)


def _rows_of(latents: Tensor) -> Tensor:
    """`(B, 1)`: of `(B, L)` states, the block that each belongs to."""
    return torch.arange(len(latents), device=latents.device)[:, None]
