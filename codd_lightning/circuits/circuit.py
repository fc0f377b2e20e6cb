"""The interface of every circuit: a tractable joint distribution over one block of tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from codd_lightning.circuits.context import Reads
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.folder import CONFIG_FILE, find_folder, read_config, read_weights, write_folder
from codd_lightning.circuits.posterior import Posterior

CIRCUITS: dict[str, type["Circuit"]] = {}

C = TypeVar("C", bound=type["Circuit"])


def register_circuit(name: str) -> Callable[[C], C]:
    """Makes a structure known to `save_circuit` and `load_circuit` under a name."""

    def register(structure: C) -> C:
        structure.structure = name
        CIRCUITS[name] = structure
        return structure

    return register


class Circuit(
    nn.Module, PyTorchModelHubMixin, ABC, library_name="codd-lightning", tags=["codd", "probabilistic-circuit"]
):
    """A probabilistic circuit `p_ω` over blocks of up to `block_length` tokens.

    `save_pretrained`, `push_to_hub` and `from_pretrained` are those of the Hugging Face Hub, on the folders of
    `save_circuit`.

    Blocks shorter than `block_length` are prefixes whose later positions are summed out. All results
    are in nats; impossible completions score minus infinity, never NaN.

    Attributes:
        structure: the name that the structure is registered under.
        tables: names of the parameters that hold log-distributions (up to a constant), and the dimension
            that each sums to 1 over.
        vocab_size: V.
        block_length: L_b, the most positions that a block may have.
        tuned: what was chosen for it on held-out data, by the name of what uses it; travels with the folder.
        reads: what it reads of the backbone's hidden states.
        has_latents: whether there are latent states to ask for.
        takes_truncated: whether evidence may keep some tokens of the vocabulary alone.
    """

    structure: str
    tables: ClassVar[dict[str, int]]
    vocab_size: int
    block_length: int
    reads: Reads = Reads.NOTHING
    has_latents: ClassVar[bool] = True
    takes_truncated: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.tuned: dict[str, dict[str, Any]] = {}

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor arguments that build this structure, ready for JSON."""

    def summary(self) -> str:
        """The configuration in words, on one line."""
        return ", ".join(f"{key} {value}" for key, value in self.config().items())

    @property
    def core(self) -> "Circuit":
        """What has the states and tables: the circuit itself, or the one that it is made around."""
        return self

    def as_core_reads(self, tokens: Tensor, evidence: Evidence) -> tuple[Tensor, Evidence]:
        """Tokens and evidence as the core takes them: the same, unless its vocabulary is another."""
        return tokens, evidence

    def prepare(self, evidence: Evidence) -> Evidence:
        """The evidence with what this circuit makes of its context, once: queries of a prepared one make it no more.

        Raises:
            EvidenceError: the context does not fit the circuit.
        """
        return evidence

    @abstractmethod
    def log_prob(self, tokens: Tensor) -> Tensor:
        """`log p_ω(x)` of `(B, L)` token ids: `(B,)`."""

    @abstractmethod
    def log_partition(self, evidence: Evidence) -> Tensor:
        """`log Z`, the log of the sum of `p_ω(x) Π_i w_i(x_i)` over all completions: `(B,)`.

        Raises:
            EvidenceError: at some position no token has weight.
        """

    @abstractmethod
    def posterior(self, evidence: Evidence) -> Posterior:
        """The distribution over completions that evidence leaves."""

    @abstractmethod
    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> dict[str, Tensor]:
        """How often each entry of each table is used under `p̂(z, x)`: the flows of EM.

        The derivative of `log Z` in the log of the entry (Darwiche, 2003).

        Args:
            evidence: for `B` blocks.
            weights: `(B,)`, of each block; 1 if None.

        Returns:
            By the names of `tables`, in the parameters' shapes, summed over the batch.
        """

    def log_joint(self, tokens: Tensor, evidence: Evidence, where: Tensor | None = None) -> Tensor:
        """`log p_ω(x) Π_i w_i(x_i)`, with what else the evidence carries; its sum over x is Z.

        Args:
            tokens: `(B, L)` long.
            evidence: for the same `B` blocks. Absent positions are summed out, whatever their token.
            where: `(B, L)` bool: score only these tokens, and sum over the others; all if None.

        Returns:
            `(B,)`; minus infinity where the evidence rules the tokens out.
        """
        self._check_completion(tokens, evidence, where)
        evidence = self.prepare(evidence)
        everywhere = torch.ones_like(tokens, dtype=torch.bool) if where is None else where
        clamped = evidence.clamp(tokens, everywhere)
        return self._log_sum(clamped) + evidence.log_weight(tokens, where)

    def log_conditional(self, tokens: Tensor, evidence: Evidence, where: Tensor | None = None) -> Tensor:
        """`log p̂(x)` of completions under the evidence (paper Eq. 7): `log_joint` less `log_partition`.

        Args and result are those of `log_joint`.
        """
        evidence = self.prepare(evidence)
        return self.log_joint(tokens, evidence, where) - self.log_partition(evidence)

    def log_conditional_estimate(self, tokens: Tensor, evidence: Evidence, generator: torch.Generator) -> Tensor:
        """What training climbs: `log_conditional`, or an unbiased estimate where that takes many passes.

        Args:
            tokens, evidence: those of `log_joint`.
            generator: of the estimate's draws.
        """
        return self.log_conditional(tokens, evidence)

    def is_possible(self, evidence: Evidence) -> Tensor:
        """`(B,)` bool: whether any completion has probability under both the evidence and the circuit."""
        return self._log_sum(self.prepare(evidence)) > -torch.inf

    @property
    def has_zeros(self) -> bool:
        """Whether some entry of a table is 0, so that evidence may be impossible."""
        return any(bool((parameter == -torch.inf).any()) for parameter in self.parameters())

    @abstractmethod
    def _log_sum(self, evidence: Evidence) -> Tensor:
        """`log_partition` of prepared evidence that answers minus infinity where nothing has mass."""

    def _save_pretrained(self, save_directory: Path) -> None:
        write_circuit(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **_: Any) -> "Circuit":
        return read_circuit(find_folder(model_id))

    def _check_completion(self, tokens: Tensor, evidence: Evidence, where: Tensor | None) -> None:
        self._check_tokens(tokens)
        if tokens.shape[1] != evidence.length or evidence.batch_size not in (1, len(tokens)):
            raise CircuitError(
                f"tokens of shape {tuple(tokens.shape)} do not fit evidence for "
                f"{evidence.batch_size} blocks of {evidence.length}"
            )
        if where is not None and (where.dtype != torch.bool or where.shape != tokens.shape):
            raise CircuitError(f"where must be bool {tuple(tokens.shape)}, not {where.dtype} {tuple(where.shape)}")

    def _check_tokens(self, tokens: Tensor) -> None:
        if tokens.dim() != 2 or tokens.dtype != torch.long:
            raise CircuitError(f"tokens must be long (B, L), not {tokens.dtype} of shape {tuple(tokens.shape)}")
        self._check_length(tokens.shape[1])
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < self.vocab_size):
            raise CircuitError(
                f"token ids must lie in [0, {self.vocab_size}), not in [{int(tokens.min())}, {int(tokens.max())}]"
            )

    def _check_evidence(self, evidence: Evidence) -> None:
        self._check_length(evidence.length)
        if evidence.vocab_size != self.vocab_size:
            raise CircuitError(
                f"evidence over {evidence.vocab_size} tokens does not fit a circuit over {self.vocab_size}"
            )

    def _check_weights(self, weights: Tensor | None, evidence: Evidence) -> None:
        if weights is not None and tuple(weights.shape) != (evidence.batch_size,):
            raise CircuitError(f"weights must be ({evidence.batch_size},), one a block, not {tuple(weights.shape)}")

    def _check_length(self, length: int) -> None:
        if not 1 <= length <= self.block_length:
            raise CircuitError(f"blocks of {length} tokens do not fit a circuit over {self.block_length} positions")


def write_circuit(circuit: Circuit, folder: Path) -> None:
    """Writes a circuit as a portable folder."""
    write_folder(folder, describe(circuit), circuit.state_dict())


def describe(circuit: Circuit) -> dict[str, Any]:
    """What a circuit is without its weights, as it stands in `config.json`."""
    tuned = {"tuned": circuit.tuned} if circuit.tuned else {}
    return {"circuit": circuit.structure, **circuit.config(), **tuned}


def from_description(description: dict[str, Any], where: Path) -> Circuit:
    """A circuit as `describe` gives it, with weights of no meaning.

    Raises:
        CircuitError: it describes none; `where` it came from is named.
    """
    config = dict(description)
    structure, tuned = config.pop("circuit", None), config.pop("tuned", {})
    if not isinstance(structure, str) or structure not in CIRCUITS:
        raise CircuitError(f"{where}: circuit {structure!r} is not one of {', '.join(sorted(CIRCUITS))}")
    if not isinstance(tuned, dict) or not all(_is_choice(choice) for choice in tuned.values()):
        raise CircuitError(f"{where}: tuned must hold gamma and tau, numbers, for each decoder, not {tuned!r}")
    try:
        circuit = CIRCUITS[structure](**config)
    except (TypeError, ValueError, OverflowError, MemoryError, RuntimeError) as error:
        raise CircuitError(f"{where} does not describe a circuit {structure!r}: {error}") from None
    circuit.tuned = tuned
    return circuit


def _is_choice(choice: Any) -> bool:
    """Whether something is what was chosen for one decoder."""
    return isinstance(choice, dict) and all(type(choice.get(name)) in (int, float) for name in ("gamma", "tau"))


def read_circuit(folder: Path) -> Circuit:
    """Reads the circuit of a portable folder.

    Raises:
        CircuitError: the folder does not hold a whole circuit.
    """
    circuit = from_description(read_config(folder), folder / CONFIG_FILE)
    weights = read_weights(folder, circuit.state_dict())
    dtypes = {value.dtype for value in weights.values()}
    if len(dtypes) == 1:
        circuit = circuit.to(dtypes.pop())
    circuit.load_state_dict(weights)
    return circuit
