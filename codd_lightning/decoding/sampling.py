"""What tokens are drawn from, and randomness that each row has to itself."""

from collections.abc import Sequence

import torch
from torch import Tensor


class RowDraws:
    """Uniform numbers for the rows of a batch, each row's from its own generator.

    What a row draws depends on its own requests only, never on the rows beside it.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self._generators = list(generators)
        self._device = device

    def rows(self, index: Tensor) -> "RowDraws":
        """The draws of some rows, by a `(M,)` index."""
        return RowDraws([self._generators[i] for i in index.tolist()], self._device)

    def uniforms(self, count: int, room: Tensor | None = None) -> Tensor:
        """`(B, count)` numbers in [0, 1); only the first `room` of a row are drawn, so that padding draws nothing."""
        numbers = torch.zeros(len(self._generators), count)
        for row, generator in enumerate(self._generators):
            drawn = count if room is None else int(room[row])
            numbers[row, :drawn] = torch.rand(drawn, generator=generator)
        return numbers.to(self._device)


def sharpen(probabilities: Tensor, tau: float) -> Tensor:
    """`p^(1/tau)`, normalised; `tau` above 0."""
    return probabilities if tau == 1.0 else (probabilities.log() / tau).softmax(-1)


def restrict(probabilities: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities with all but the `top_k` largest, and all beyond the first `top_p` of mass, set to 0."""
    if top_k is not None and top_k < probabilities.shape[-1]:
        smallest = probabilities.topk(top_k, dim=-1).values[..., -1:]
        probabilities = probabilities.masked_fill(probabilities < smallest, 0.0)
    if top_p is not None and top_p < 1.0:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p * ordered.sum(-1, keepdim=True)
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(beyond, 0.0))
    return probabilities
