"""Which positions do not influence each other: tests of conditional independence by the backbone itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from codd_lightning.decoding.remasking import ranked


def independent_positions(
    logits: Tensor,
    candidates: Tensor,
    canvas: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    bound: float,
) -> tuple[Tensor, Tensor]:
    """Candidates that the more confident of them do not influence (PUNT; Azangulov et al., 2025, arXiv 2510.21961).

    Candidates are ranked by confidence, and any two of them differ in a binary digit of their ranks. For each digit,
    from the highest, the most probable tokens of all that still stand with a 0 there are revealed at once, and those
    with a 1 whose distribution moves by more than the bound are dropped: `⌈log2 n⌉` passes for n candidates. The surest
    is never dropped. A token may fall for the influence of a less confident one as well: more tests would tell.

    Args:
        logits: `(R, P, V)`, with nothing revealed.
        candidates: `(R, P)` bool.
        canvas: `(R, P)` long, the tokens that stand there now.
        predict: from some rows, `(Q,)` long, and what stands at their positions, `(Q, P)`, to logits `(Q, P, V)`.
        bound: nats, of `KL(revealed ‖ nothing revealed)`.

    Returns:
        `(R, P)` bool, and how many passes each row took, `(R,)` long.
    """
    log_p = logits.log_softmax(-1)
    confidence, tokens = log_p.max(-1)
    rank = ranked(confidence, candidates).argsort(-1)
    kept, passes = candidates.clone(), torch.zeros_like(rank[:, 0])
    for digit in reversed(range((candidates.shape[1] - 1).bit_length())):
        tested = kept & ((rank >> digit) & 1 == 1)
        rows = tested.any(-1).nonzero().squeeze(-1)
        if not len(rows):
            continue
        revealed = torch.where(kept & ~tested, tokens, canvas)
        after = predict(rows, revealed[rows]).log_softmax(-1)
        passes[rows] += 1
        moved = torch.where(after == -torch.inf, 0.0, after.exp() * (after - log_p[rows])).sum(-1)
        kept[rows] &= ~(tested[rows] & (moved > bound))
    return kept, passes
