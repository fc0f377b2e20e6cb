"""A backbone that need not be asked twice about the same canvas, for decoders that differ in their options only."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from codd_lightning.backbones import AnyBackbone, KeyValues, Prediction


class Remembering(nn.Module):
    """Answers a question that was asked before from memory; everything else goes to the backbone.

    Attributes:
        passes: predictions that the backbone made.
        recalled: predictions that it did not have to make.
    """

    def __init__(self, backbone: AnyBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.passes = self.recalled = 0
        self._known: dict[tuple[Any, ...], Prediction] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("backbone"), name)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.backbone(input_ids, attention_mask)
        return logits

    def predict(
        self,
        canvas: Tensor,
        positions: Tensor | None = None,
        cache: KeyValues | None = None,
        attention_mask: Tensor | None = None,
        keep: Tensor | None = None,
        response_start: int | None = None,
    ) -> Prediction:
        """As the backbone's; with keys and values in play nothing is remembered."""
        if cache is not None or keep is not None:
            return self.backbone.predict(canvas, positions, cache, attention_mask, keep, response_start)
        parts = (canvas, positions, attention_mask)
        key = (response_start, *(None if part is None else _content(part) for part in parts))
        if key in self._known:
            self.recalled += 1
        else:
            self.passes += 1
            self._known[key] = self.backbone.predict(
                canvas, positions, attention_mask=attention_mask, response_start=response_start
            )
        known = self._known[key]
        return dataclasses.replace(known, logits=known.logits.clone())  # whoever asks may write into the logits

    def forget(self) -> None:
        """Drops what is remembered."""
        self._known = {}


def _content(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.cpu().numpy().tobytes())
