"""From what is typed into the page to what it shows: checked, decoded with and without the circuit, explained."""

from dataclasses import dataclass
from typing import Any

from codd_lightning.backbones import Backbone, encode_prompt
from codd_lightning.circuits import Circuit
from codd_lightning.decoding import PROPOSALS, REMASKING, DecodingConfig, Generation, generate, require_fit
from codd_lightning.decoding.config import EOS_RULES
from codd_lightning.errors import UserError
from codd_lightning.evaluation.explain import Commit, RaisedPair, block_evidence, commits, raised_pairs
from codd_lightning.seeding import sample_generator

BLOCKS = 2  # of a response
PAIRS = 8  # shown of each block
DECODERS = tuple(name for name, proposal in PROPOSALS.items() if proposal.coupled)
ORDERS = tuple(REMASKING)
EOS = EOS_RULES


@dataclass(frozen=True)
class Choices:
    """What is chosen in the page; a number that was deleted is None.

    Attributes:
        prompt: the problem.
        steps: denoising steps per block.
        gamma, tau: activation threshold and sharpening.
        proposal: the coupled decoder.
        remasking: order of the positions.
        eos: EOS rule.
    """

    prompt: str
    steps: float | None = 4
    gamma: float | None = 1.0
    tau: float | None = 0.0
    proposal: str = "any_order"
    remasking: str = "low_confidence"
    eos: str = "last"


@dataclass(frozen=True)
class Side:
    """One decoder's response.

    Attributes:
        decoder: name of its proposal.
        commits: all that was committed, in the order of the steps, also after the EOS.
        length: of the response, up to and including its EOS.
        nfe: backbone forward passes.
        circuit_calls: conditional distributions asked of the circuit.
        ended: whether it closes with an EOS.
    """

    decoder: str
    commits: list[Commit]
    length: int
    nfe: int
    circuit_calls: int
    ended: bool

    @property
    def steps(self) -> int:
        """How many steps it took."""
        return max((commit.step for commit in self.commits), default=0)


@dataclass(frozen=True)
class Explanation:
    """What the page shows.

    Attributes:
        factorized, coupled: the two responses, from the same seed.
        pairs: for each block that the coupled decoder began, what the circuit raised before its first token.
    """

    factorized: Side
    coupled: Side
    pairs: list[list[RaisedPair]]


class Session:
    """A backbone and a circuit that answer the page.

    Attributes:
        block_length: of the circuit.

    Raises:
        UserError: they do not fit each other, or the backbone reads no text.
    """

    def __init__(self, backbone: Backbone, circuit: Circuit, seed: int = 0) -> None:
        if backbone.tokenizer is None:
            raise UserError("the backbone has no tokenizer, so it cannot read a prompt")
        require_fit(backbone, circuit, circuit.block_length)
        self.backbone, self.block_length = backbone, circuit.block_length
        self._circuit, self._seed = circuit.requires_grad_(False), seed

    def explain(self, choices: Choices) -> Explanation:
        """Decodes a prompt with and without the circuit.

        Raises:
            UserError: something chosen is out of its range.
        """
        config = self._config(choices)
        prompt = self._prompt(choices.prompt, config.max_new_tokens)
        factorized = self._generate(prompt, config.replace(proposal="factorized"))
        coupled = self._generate(prompt, config)
        return Explanation(
            factorized=_side("factorized", factorized),
            coupled=_side(choices.proposal, coupled),
            pairs=[
                raised_pairs(self._circuit, evidence, PAIRS)
                for evidence in block_evidence(self.backbone, prompt, config, coupled, self._circuit.reads)
            ],
        )

    def _config(self, choices: Choices) -> DecodingConfig:
        steps = _number("steps per block", choices.steps)
        if not (1 <= steps <= self.block_length and steps == int(steps)):
            raise UserError(f"steps per block {steps:g} must be a whole number from 1 to {self.block_length}")
        try:
            return DecodingConfig(
                proposal=_one_of("decoder", choices.proposal, DECODERS),
                remasking=choices.remasking,
                steps=int(steps) * BLOCKS,
                max_new_tokens=self.block_length * BLOCKS,
                block_length=self.block_length,
                gamma=_number("γ", choices.gamma),
                tau=_number("τ", choices.tau),
                eos=choices.eos,
                trace=True,
            )
        except UserError as error:  # it names keys of a config; here they are fields of the page
            named = str(error).replace("decoding.gamma=", "γ ").replace("decoding.tau=", "τ ")
            raise UserError(named.replace("decoding.", "")) from None

    def _prompt(self, text: str, room: int) -> list[int]:
        if not text.strip():
            raise UserError("the prompt is empty: write a problem")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError("the prompt is not valid text: it holds half a character") from None
        ids = encode_prompt(text, self.backbone.tokenizer)
        most = getattr(self.backbone.model.config, "max_position_embeddings", None)
        if most is not None and len(ids) + room > most:
            raise UserError(
                f"the prompt has {len(ids)} tokens; beside a response of {room} the backbone has room for "
                f"{most - room}: shorten it"
            )
        return ids

    def _generate(self, prompt: list[int], config: DecodingConfig) -> Generation:
        draws = sample_generator(self._seed, 0, 0, "demo")
        return generate(self.backbone, [prompt], config, circuit=self._circuit, generator=[draws])


def _side(decoder: str, generation: Generation) -> Side:
    return Side(
        decoder=decoder,
        commits=commits(generation),
        length=generation.response_tokens[0],
        nfe=generation.nfe[0],
        circuit_calls=generation.circuit_calls[0],
        ended=generation.ended[0],
    )


def _number(name: str, value: Any) -> float:
    if value is None:
        raise UserError(f"{name} is empty: give a number")
    return float(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{name} {value!r} is not one of {', '.join(known)}")
    return value
