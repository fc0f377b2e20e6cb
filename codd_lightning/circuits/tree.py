"""A hidden balanced binary tree: any two positions are a few steps apart."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.circuit import register_circuit
from codd_lightning.circuits.latent import EMISSION_SPREAD, LatentCircuit
from codd_lightning.circuits.messages import Messages
from codd_lightning.circuits.scaling import (
    entropy_of,
    masked_log,
    normalize,
    rescale,
    safe_log,
    transition_entropy,
)
from codd_lightning.circuits.tables import Tables

LEFT, RIGHT = 0, 1


@register_circuit("tree")
class Tree(LatentCircuit):
    """Latent states in a balanced binary tree whose leaves emit the tokens.

    `p_ω(x) = Σ_z π(z_root) Π_edges A_{level,side}(z_parent, z_child) Π_leaves E(z_leaf, x_leaf)`: sequential
    depth `log2 L` where the HMM's is L. Levels are numbered from the leaves.

    Args:
        num_states: N, states of every node.
        vocab_size: V.
        block_length: L, the most positions that a block may have; the tree has the next power of two leaves.

    Raises:
        CircuitError: a size is not positive.
    """

    tables: ClassVar[dict[str, int]] = {"initial": -1, "transition": -1, "emission": 1}
    spreads: ClassVar[dict[str, float]] = {"initial": 0.3, "transition": 2.0, "emission": EMISSION_SPREAD}

    def __init__(self, num_states: int, vocab_size: int, block_length: int) -> None:
        super().__init__(num_states, vocab_size, block_length, homogeneous=True)
        self.depth = (block_length - 1).bit_length()
        self.initial_logits = nn.Parameter(torch.empty(num_states))
        self.transition_logits = nn.Parameter(torch.empty(self.depth, 2, num_states, num_states))
        self.reset_parameters()

    def _log_normalizer(self, tables: Tables, scores: Tensor) -> Tensor:
        message = _padded(scores, self.depth)  # (B, 2^depth, N)
        log_scale = scores.new_zeros(len(scores))
        for transition in tables.latent["transition"]:
            upward = _to_parent(transition, message)
            message, log_scales = normalize(upward[:, 0::2] * upward[:, 1::2])
            log_scale = log_scale + log_scales.sum(-1)
        return safe_log((tables.latent["initial"] * message[:, 0]).sum(-1)) + log_scale

    def _messages(self, tables: Tables, scores: Tensor) -> "TreeMessages":
        return TreeMessages(tables.latent["initial"], tables.latent["transition"], scores)


class TreeMessages(Messages):
    """Messages up and down the tree.

    A changed score is carried up its own path at once; what reaches one position is read down one
    path. Both take `log2 L` steps; all positions together take one sweep.
    """

    def __init__(self, initial: Tensor, transition: Tensor, scores: Tensor) -> None:
        self._initial = initial
        self._transition = transition  # (depth, 2, N, N)
        self._length = scores.shape[1]
        self.num_draws = 2 * 2 ** len(transition) - 1
        self._inside = [_padded(scores, len(transition)).clone()]  # by level: (B, nodes, N), what a node's leaves say
        self._upward: list[Tensor] = []  # by level below the root: what a node tells its parent
        for matrices in transition:
            self._upward.append(_to_parent(matrices, self._inside[-1]))
            self._inside.append(normalize(self._upward[-1][:, 0::2] * self._upward[-1][:, 1::2])[0])

    def outside(self, positions: Tensor | None = None) -> Tensor:
        reached = self._initial.expand(len(self._inside[0]), -1)
        if positions is None:
            return self._downward()[0][:, : self._length]
        rows = torch.arange(len(positions), device=positions.device)
        for level in reversed(range(len(self._transition))):
            node = positions >> level
            beside = reached * self._upward[level][rows, node ^ 1]
            both = beside @ self._transition[level, LEFT], beside @ self._transition[level, RIGHT]
            reached = rescale(torch.where((node % 2 == LEFT)[:, None], *both))[1]
        return reached

    def change(self, rows: Tensor, positions: Tensor, scores: Tensor) -> None:
        self._inside[0][rows, positions] = scores
        node = positions
        for level, matrices in enumerate(self._transition):
            message = self._inside[level][rows, node]
            both = message @ matrices[LEFT].T, message @ matrices[RIGHT].T
            self._upward[level][rows, node] = torch.where((node % 2 == LEFT)[:, None], *both)
            product = self._upward[level][rows, node] * self._upward[level][rows, node ^ 1]
            node = node // 2
            self._inside[level + 1][rows, node] = normalize(product)[0]

    def sample(self, uniforms: Tensor) -> Tensor:
        states = draw(self._initial * self._inside[-1], uniforms[:, :1])  # (B, nodes of the level)
        used = 1
        for level in reversed(range(len(self._transition))):
            table = torch.stack([self._transition[level, side][states] for side in (LEFT, RIGHT)], 2)
            weights = table.flatten(1, 2) * self._inside[level]
            nodes = weights.shape[1]
            states = draw(weights, uniforms[:, used : used + nodes])
            used += nodes
        return states[:, : self._length]

    def mode(self, log_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Max-product; states of inner nodes are maximised too, and those of the leaves returned."""
        best = _padded(log_scores, len(self._transition), fill=0.0)
        came_from: list[Tensor] = []  # by level: (B, nodes, N), the best child state for each state of its parent
        for level, matrices in enumerate(self._transition):
            found = [(best[:, side::2, None, :] + masked_log(matrices[side])).max(-1) for side in (LEFT, RIGHT)]
            came_from.append(torch.stack([states for _, states in found], 2).flatten(1, 2))
            left, right = (
                values.masked_fill(self._beyond(level, side), 0.0)
                for side, (values, _) in zip((LEFT, RIGHT), found, strict=True)
            )
            best = left + right
        log_mass, state = (best[:, 0] + masked_log(self._initial)).max(-1)
        states = state[:, None]
        for choice in reversed(came_from):
            parents = states.repeat_interleave(2, 1)
            states = choice.gather(-1, parents[..., None]).squeeze(-1)
        return states[:, : self._length], log_mass

    def entropy(self) -> Tensor:
        reached = self._downward()
        total = entropy_of(rescale(self._initial * self._inside[-1][:, 0])[1])
        for level, matrices in enumerate(self._transition):
            parents = rescale(reached[level + 1] * self._inside[level + 1])[1]
            for side in (LEFT, RIGHT):
                message = rescale(self._inside[level][:, side::2])[1]
                each = (parents * transition_entropy(matrices[side], message)).sum(-1, keepdim=True)  # (B, parents, 1)
                total = total + each.masked_fill(self._beyond(level, side), 0.0).sum((-1, -2))
        return total

    def rows(self, index: Tensor) -> "TreeMessages":
        chosen = object.__new__(TreeMessages)
        chosen.__dict__.update(self.__dict__)
        chosen._inside = [values[index] for values in self._inside]
        chosen._upward = [values[index] for values in self._upward]
        return chosen

    def _beyond(self, level: int, side: int) -> Tensor:
        """`(parents, 1)` bool: children whose leaves all lie beyond the block, and are summed out."""
        nodes = torch.arange(side, self._inside[level].shape[1], 2, device=self._initial.device)
        return ((nodes << level) >= self._length)[:, None]

    def _downward(self) -> list[Tensor]:
        """By level, `(B, nodes, N)`: what all leaves that are not a node's own say of its state."""
        reached = [self._initial.expand(len(self._inside[0]), 1, -1)]
        for level in reversed(range(len(self._transition))):
            upward = self._upward[level]
            to_left = (reached[0] * upward[:, 1::2]) @ self._transition[level, LEFT]
            to_right = (reached[0] * upward[:, 0::2]) @ self._transition[level, RIGHT]
            reached.insert(0, rescale(torch.stack([to_left, to_right], 2).flatten(1, 2))[1])
        return reached


def _padded(scores: Tensor, depth: int, fill: float = 1.0) -> Tensor:
    """`(B, 2^depth, N)`: leaves beyond the block say nothing."""
    missing = 2**depth - scores.shape[1]
    return torch.cat([scores, scores.new_full((len(scores), missing, scores.shape[2]), fill)], 1)


def _to_parent(matrices: Tensor, message: Tensor) -> Tensor:
    """What `(B, nodes, N)` messages say of the states of the nodes' parents."""
    both = message[:, 0::2] @ matrices[LEFT].T, message[:, 1::2] @ matrices[RIGHT].T
    return torch.stack(both, 2).flatten(1, 2)
