"""The noise that training and validation put on batches."""

from dataclasses import dataclass

from codd_lightning.data import Batch
from codd_lightning.diffusion import CANVASES, Noised, corrupt
from codd_lightning.errors import UserError
from codd_lightning.seeding import sample_generator


@dataclass(frozen=True)
class Noise:
    """How batches are masked; the noise of a sample depends on (seed, epoch, sample) alone.

    Attributes:
        canvas: "uniform" (paper Eq. 7), "block" (what block decoding meets), or "mixed", half of each.
        block_length: of block canvases.
        fully_masked: share of samples whose noise level is 1.
        seed: of all draws.
        from_left: share of block canvases whose last tokens are masked instead of any: what decoding from left to
            right meets.

    Raises:
        UserError: an option is out of its range.
    """

    canvas: str = "uniform"
    block_length: int = 32
    fully_masked: float = 0.0
    seed: int = 0
    from_left: float = 0.0

    def __post_init__(self) -> None:
        known = (*CANVASES, "mixed")
        if self.canvas not in known:
            raise UserError(f"objective.canvas={self.canvas} is not one of {', '.join(known)}")
        for name in ("fully_masked", "from_left"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"objective.{name}={getattr(self, name)} is a share: from 0 to 1")
        if self.from_left and self.canvas == "uniform":
            raise UserError(f"objective.from_left={self.from_left} is of block canvases: use canvas=block or mixed")

    def __call__(self, batch: Batch, mask_token_id: int, epoch: int, purpose: str) -> Noised:
        """Masks a batch; `purpose` keeps training and validation apart."""
        return corrupt(
            batch.input_ids,
            batch.response_mask,
            mask_token_id,
            [sample_generator(self.seed, epoch, index, purpose) for index in batch.index.tolist()],
            canvas=self.canvas,
            block_length=self.block_length,
            fully_masked=self.fully_masked,
            from_left=self.from_left,
        )
