"""How likely samples are to the backbone itself, one token at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, device_of
from codd_lightning.data import Batch
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.diffusion import Noised
from codd_lightning.evaluation.likelihood import sequential_log_likelihood


def sample_log_likelihood(
    backbone: AnyBackbone, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], response_length: int
) -> Tensor:
    """`log p_θ` of each response after its prompt, as `sequential_log_likelihood` counts it: as many passes as tokens.

    It says what a text of several tokens a step would have been worth to the same backbone in as many steps as tokens.

    Args:
        backbone: whose word is taken.
        prompts: token ids.
        responses: token ids, EOS included; what lies behind stays masked.
        response_length: of the canvas, as the responses were decoded on.

    Returns:
        `(B,)` nats.
    """
    canvas = Canvas.of_prompts(prompts, response_length, backbone.mask_token_id, device_of(backbone))
    tokens, scored = canvas.tokens.clone(), torch.zeros_like(canvas.masked)
    for row, response in enumerate(responses):
        place = slice(canvas.prompt_length, canvas.prompt_length + len(response))
        tokens[row, place] = torch.tensor(response, dtype=torch.long, device=tokens.device)
        scored[row, place] = True
    index = torch.arange(len(tokens), device=tokens.device)
    batch = Batch(tokens, canvas.attention_mask, canvas.masked, canvas.prompt_length, index)
    size = scored.sum(-1)
    noised = Noised(canvas.tokens, canvas.masked, scored, size, torch.ones(len(tokens), device=tokens.device))
    return sequential_log_likelihood(backbone, batch, noised).sum(-1)
