"""What heads read at each position of a block."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codd_lightning.circuits.context import Context, Reads
from codd_lightning.circuits.errors import EvidenceError
from codd_lightning.circuits.evidence import Evidence

HEAD_WIDTH = 16  # of one head of the adapter's attention


def require_context(context: Context, evidence: Evidence, hidden_size: int, reads: Reads) -> None:
    """Refuses a context that does not fit its evidence, or lacks what a circuit reads.

    Raises:
        EvidenceError: hidden states of another shape, or none of what lies before the block.
    """
    shape = (*evidence.tokens.shape, hidden_size)
    if tuple(context.hidden.shape) != shape:
        raise EvidenceError(f"hidden states of shape {tuple(context.hidden.shape)} do not fit: {shape} is needed")
    if reads == Reads.EVERYTHING_BEFORE and context.before is None:
        raise EvidenceError("this circuit's adapter reads what lies before the block, and the context has none")


class PlainFeatures(nn.Module):
    """A position's own hidden state, normalised, and the block's mask ratio.

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.size = hidden_size + 1

    def forward(self, context: Context, mask_ratio: Tensor) -> Tensor:
        """`(B, L, D + 1)`.

        Args:
            context: of B blocks.
            mask_ratio: `(B,)`.
        """
        states = self.norm(context.hidden.to(self.norm.weight.dtype))
        ratio = mask_ratio[:, None, None].to(states.dtype).expand(*states.shape[:2], 1)
        return torch.cat([states, ratio], -1)


class Adapter(nn.Module):
    """Transformer layers of their own: block positions attend to each other and to everything before the block.

    Positions of the block are told by an embedding; those before it by what the backbone made of them. Slots stand
    beside the positions and ask something of the whole, each always the same; where there are some, what lies before
    is told by its place as well (the sinusoids of Vaswani et al., 2017), which a question for the second number needs.

    Args:
        hidden_size: D, of the backbone.
        block_length: L, the most positions of a block.
        width: W, a multiple of 16.
        layers: how many.
        slots: S.
    """

    def __init__(self, hidden_size: int, block_length: int, width: int, layers: int, slots: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.inward = nn.Linear(hidden_size, width)
        self.positions = nn.Parameter(torch.empty(block_length, width).normal_(0.0, 0.1))
        self.mask_ratio = nn.Parameter(torch.zeros(width))
        self.slots = nn.Parameter(torch.empty(slots, width).normal_()) if slots else None
        self.places = nn.Linear(width, width, bias=False) if slots else None
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.outward = nn.LayerNorm(width)
        self.size = width

    def forward(self, context: Context, mask_ratio: Tensor, known: Tensor | None = None) -> Tensor:
        """`(B, L + S, W)`; arguments as of `PlainFeatures`, and `(B, L, W)` of what is known at each position."""
        dtype = self.positions.dtype
        states = self.inward(self.norm(context.hidden.to(dtype)))
        if known is not None:
            states = states + known
        states = states + self.positions[: states.shape[1]] + mask_ratio[:, None, None].to(dtype) * self.mask_ratio
        if self.slots is not None:
            states = torch.cat([states, self.slots.expand(len(states), -1, -1)], 1)
        before, visible = None, None
        if context.before is not None and context.present is not None:
            before = self.inward(self.norm(context.before.to(dtype)))
            if self.places is not None:
                before = before + self.places(_sinusoids(context.present.cumsum(1), self.size).to(dtype))
            own = context.present.new_ones(states.shape[:2])
            visible = torch.cat([context.present, own], 1)[:, None, None]  # (B, 1, 1, everything before + L + S)
        for layer in self.layers:
            states = layer(states, before, visible)
        result: Tensor = self.outward(states)
        return result


def _sinusoids(places: Tensor, width: int) -> Tensor:
    """`(B, S, W)` of `(B, S)` whole numbers."""
    rates = 1000.0 ** -(torch.arange(0, width, 2, device=places.device) / width)
    angles = places[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class Layer(nn.Module):
    """One layer of the adapter, with the norm first (Xiong et al., 2020).

    Args:
        width: W.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, states: Tensor, before: Tensor | None, visible: Tensor | None) -> Tensor:
        """`(B, L, W)` of the block's states, `(B, S, W)` of what lies before it, and `(B, 1, 1, S + L)` bool."""
        own = self.attention_norm(states)
        everything = own if before is None else torch.cat([self.attention_norm(before), own], 1)
        keys, values = self.key_value(everything).chunk(2, -1)
        query, keys, values = (self._split(part) for part in (self.query(own), keys, values))
        found = F.scaled_dot_product_attention(query, keys, values, visible)
        states = states + self.attended(found.transpose(1, 2).flatten(2))
        result: Tensor = states + self.mlp(states)
        return result

    def _split(self, part: Tensor) -> Tensor:
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
