"""Tables of which a part belongs to blocks: what some states say depends on the context."""

import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.tables import CHUNK, Tables


class BlockTables(Tables):
    """Tables of C copies of M states, of which the first S emit what each of B blocks says, shared by its positions.

    Evidence is dense. Tables of one block serve any number of completions. Scores of a text take the parts as they
    are; other queries ask for the whole, `(B, V, C · M)`, which is made when they do.

    Args:
        latent, prepared: as of `Tables`.
        log_open: `(B, V, C · S)`, columns whose exponentials sum to 1 over V.
        log_closed: `(V, M - S)`, the same of the other states in every block and copy.
        copies: C.
    """

    log_open: Tensor
    log_closed: Tensor
    copies: int

    def __init__(
        self, latent: dict[str, Tensor], log_open: Tensor, log_closed: Tensor, copies: int, prepared: dict[str, Any]
    ) -> None:
        given = {"latent": latent, "prepared": prepared, "mass": None, "_ranked": {}, "_parts": {}}
        own = {"log_open": log_open, "log_closed": log_closed, "copies": copies}
        for name, value in {**given, **own}.items():
            object.__setattr__(self, name, value)  # a frozen dataclass, of which the large fields are made when asked

    @property
    def num_states(self) -> int:
        return self.log_open.shape[-1] + self.copies * self.log_closed.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.log_open.dtype

    @cached_property
    def emission_logits(self) -> Tensor:
        blocks, vocab_size, _ = self.log_open.shape
        return self._together(self.log_open, self.log_closed.expand(blocks, vocab_size, -1))

    @cached_property
    def emission(self) -> Tensor:
        return self.emission_logits.exp()

    @cached_property
    def log_normalizer(self) -> Tensor:
        return self.log_open.new_zeros(len(self.log_open), self.num_states)

    def rows(self, index: Tensor) -> "BlockTables":
        chosen = copy.copy(self)
        for name in ("log_open", "emission", "emission_logits", "log_normalizer"):
            if name in self.__dict__:
                object.__setattr__(chosen, name, getattr(self, name)[index])
        return chosen

    def log_emission_of(self, tokens: Tensor) -> Tensor:
        table = self.log_open.expand(len(tokens), -1, -1)
        said = table.gather(1, tokens[..., None].expand(-1, -1, table.shape[-1]))
        return self._together(said, F.embedding(tokens, self.log_closed))

    def log_emission_in(self, copies: Tensor, tokens: Tensor) -> Tensor:
        """`log E(c_i, m, x_i)`, `(B, L, M)`, where the copy of each position is known, `(B, L)`."""
        blocks, vocab_size, columns = self.log_open.shape
        first = torch.arange(blocks, device=tokens.device)[:, None] * vocab_size  # (1, 1) where one serves all
        rows = (first + tokens) * self.copies + copies
        said = F.embedding(rows, self.log_open.view(-1, columns // self.copies))
        return torch.cat([said, F.embedding(tokens, self.log_closed)], -1)

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
        if values is not None:
            return torch.matmul(everywhere, values)[where]
        return self._together(torch.matmul(everywhere, self.log_open.exp()), everywhere @ self.log_closed.exp())[where]

    def largest(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        rows, positions = evidence.soft.nonzero(as_tuple=True)
        found = []
        for part in torch.arange(len(rows), device=rows.device).split(max(CHUNK // self.emission[0].numel(), 1)):
            weights = evidence.weights[rows[part], positions[part]].to(self.dtype)
            found.append((self.emission[rows[part]] * weights[..., None]).max(1))
        values, tokens = zip(*found, strict=True)
        return torch.cat(values), torch.cat(tokens)

    def _together(self, of_open: Tensor, of_closed: Tensor) -> Tensor:
        """`(B, L, C · M)` of `(B, L, C · S)` and `(B, L, M - S)`."""
        of_open = of_open.unflatten(-1, (self.copies, -1))
        return torch.cat([of_open, of_closed[:, :, None].expand(-1, -1, self.copies, -1)], -1).flatten(2)


def _rows_of(latents: Tensor) -> Tensor:
    """`(B, 1)`: of `(B, L)` states, the block that each belongs to."""
    return torch.arange(len(latents), device=latents.device)[:, None]
