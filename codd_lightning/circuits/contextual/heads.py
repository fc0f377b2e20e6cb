"""What a context changes of a circuit: potentials over latent states, and emission roles. Both begin at nothing."""

import math

import torch
from torch import Tensor, nn

from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.roles import Roles
from codd_lightning.circuits.scaling import masked_log

LATENT = ("none", "linear", "low_rank", "mlp")


def latent_potentials(kind: str, size: int, num_states: int, width: int) -> nn.Module | None:
    """A head of log potentials over latent states (appendix E.1), `(B, L, F)` to `(B, L, N)`; all 0 at the start.

    Args:
        kind: "linear", "low_rank", "mlp", or "none".
        size: F.
        num_states: N.
        width: rank of "low_rank", hidden units of "mlp".
    """
    if kind == "none":
        return None
    if kind == "linear":
        return zero(nn.Linear(size, num_states))
    first = nn.Linear(size, width, bias=kind == "mlp")
    last = zero(nn.Linear(width, num_states))
    return nn.Sequential(first, last) if kind == "low_rank" else nn.Sequential(first, nn.GELU(), last)


class EmissionRoles(nn.Module):
    """Low-rank reweightings of the backbone's distribution (appendix E.2).

    Role r reads `q_r(v) ∝ w(v) exp⟨U_r f, T_v⟩`, normalised; a token that truncation left out keeps its weight
    before normalisation, and so does the least of those it kept: in training that may be the true one, kept although
    it is not among the largest, and roles would learn to know it by that. At the start U is 0, so that every role
    reads the evidence as it is.

    Args:
        size: F, of the features f.
        vocab_size: V.
        count: R.
        rank: of `⟨U_r f, T_v⟩`.
    """

    def __init__(self, size: int, vocab_size: int, count: int, rank: int) -> None:
        super().__init__()
        self.count = count
        self.role = zero(nn.Linear(size, count * rank))
        self.tokens = nn.Parameter(torch.empty(vocab_size, rank).normal_())

    def forward(self, features: Tensor, evidence: Evidence) -> Roles:
        """The roles of `(B, L, F)` features."""
        role = self.role(features).unflatten(-1, (self.count, -1))  # (B, L, R, rank)
        if evidence.token_ids is None:
            scores = role @ self.tokens.T  # (B, L, R, V)
        else:
            scores = role @ self.tokens[evidence.token_ids].transpose(-1, -2)  # (B, L, R, K)
            weights = evidence.weights
            if weights.shape[-1] < evidence.vocab_size:
                least = weights.masked_fill(weights == 0, torch.inf).argmin(-1)  # 0 is the mask token's, say
                scores = scores.scatter(-1, least[:, :, None, None].expand(*scores.shape[:-1], 1), 0.0)
        known = ~evidence.soft[..., None]  # weights say nothing there, and their logs must not be all minus infinity
        log_weights = masked_log(evidence.weights).masked_fill(known, 0.0)[:, :, None] + scores
        total = log_weights.logsumexp(-1, keepdim=True)
        tail = None
        if evidence.tail is not None:
            left_out = evidence.vocab_size - evidence.weights.shape[-1]
            log_tail = masked_log(evidence.tail).masked_fill(known.squeeze(-1), 0.0)[:, :, None, None].expand_as(total)
            total = torch.logaddexp(total, log_tail + math.log(max(left_out, 1)))
            tail = _quotient(log_tail, total).squeeze(-1)
        log_gain = total.new_zeros(total.shape[:-1])
        return Roles(_quotient(log_weights, total), tail, log_gain)


def _quotient(log_values: Tensor, log_total: Tensor) -> Tensor:
    """The quotient of two numbers by their logs, at least the least number: only minus infinity is impossible."""
    found = (log_values - log_total.masked_fill(log_total == -torch.inf, 0.0)).exp()
    return found.clamp_min(torch.finfo(found.dtype).tiny).masked_fill(log_values == -torch.inf, 0.0)


def zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
