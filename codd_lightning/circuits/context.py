"""What a backbone knows besides its distributions: the context that a circuit may depend on."""

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from codd_lightning.circuits.carried import Carried


class Reads(IntEnum):
    """How much of the backbone's hidden states a circuit reads."""

    NOTHING = 0
    BLOCK = 1
    EVERYTHING_BEFORE = 2


@dataclass(frozen=True)
class Context(Carried):
    """A backbone's last hidden states around B blocks.

    Attributes:
        hidden: `(B, L, D)`, those that the logits of the block's positions come from.
        before: `(B, S, D)`, those of the S columns before the block (prompt and earlier blocks); None where the
            circuit does not read them.
        present: `(B, S)` bool, which of them are not padding; None beside None.
    """

    hidden: Tensor
    before: Tensor | None = None
    present: Tensor | None = None
