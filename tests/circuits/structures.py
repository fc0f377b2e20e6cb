"""Every structure beside full enumeration in float64 numpy, which reads nothing but the raw logits of a circuit."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from codd_lightning.circuits import HMM, Evidence, Factorized, Mixture, Roles, Tree
from codd_lightning.circuits.latent import LatentCircuit

from . import enumeration
from .enumeration import Array, Ints, softmax
from .strategies import weights_of

CLOSE: dict[str, float] = {"atol": 1e-9, "rtol": 1e-9}
ENOUGH = 10**5  # pairs of latents and completions that a drawn scene may have

STRUCTURES: dict[str, Callable[[int, int, int], LatentCircuit]] = {
    "hmm": HMM,
    "inhomogeneous": partial(HMM, homogeneous=False),
    "mixture": Mixture,
    "tree": Tree,
    "factorized": lambda num_states, vocab_size, block_length: Factorized(vocab_size, block_length),
}

tuples = cache(enumeration.tuples)


@dataclass(frozen=True)
class Graph:
    """The latent nodes of a block.

    Attributes:
        factors: table, the part of it, and the nodes that index this part.
        leaves: for every position the node that emits its token.
    """

    num_nodes: int
    factors: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    leaves: list[int]


def graph_of(circuit: LatentCircuit, length: int, beyond: bool = False) -> Graph:
    """Nodes of a tree with no position of the block below them are left out, unless `beyond`."""
    positions = range(length)
    if isinstance(circuit, Mixture):
        return Graph(1, [("prior", (), (0,))], [0] * length)
    if isinstance(circuit, HMM):
        steps: list = [("transition", (0 if circuit.homogeneous else i,), (i, i + 1)) for i in positions[:-1]]
        return Graph(length, [("initial", (), (0,)), *steps], list(positions))
    depth = next(d for d in range(99) if 2**d >= circuit.block_length)
    nodes = [(k, i) for k in range(depth + 1) for i in range(2 ** (depth - k)) if beyond or i * 2**k < length]
    name = {node: which for which, node in enumerate(nodes)}
    edges: list = [("transition", (k, i % 2), (name[k + 1, i // 2], name[k, i])) for k, i in nodes if k < depth]
    return Graph(len(nodes), [("initial", (), (name[depth, 0],)), *edges], [name[0, i] for i in positions])


def tables_of(circuit: LatentCircuit) -> dict[str, Array]:
    logits = {name.removesuffix("_logits"): value.double().numpy() for name, value in circuit.state_dict().items()}
    return {name: softmax(value, axis=1 if name == "emission" else -1) for name, value in logits.items()}


@dataclass(frozen=True)
class Pairs:
    """All completions of one block, `(S, L)`, with all states of its nodes, `(Z, M)`, and their mass `(S, Z)`."""

    graph: Graph
    sequences: Ints
    states: Ints
    mass: Array

    @property
    def latents(self) -> Ints:
        """`(Z, L)`: states of the nodes that emit."""
        return self.states[:, self.graph.leaves]

    @property
    def log_z(self) -> float:
        return float(np.log(self.mass.sum()))

    @property
    def completions(self) -> Array:
        """`(S,)`: `p̂(x)`."""
        return self.mass.sum(1) / self.mass.sum()

    def best(self, tokens: Ints, latents: Ints) -> float:
        """The largest mass of one completion with these states of the leaves."""
        rows, columns = (self.sequences == tokens).all(1), (self.latents == latents).all(1)
        return float(self.mass[rows][:, columns].max())


@dataclass(frozen=True)
class Scene:
    """A circuit, and evidence for it by the arguments of `Evidence.from_logits`.

    Attributes:
        roles: `(B, L, R, V)`, what a soft position weighs for each role; None without roles.
        gain: `(B, L, R)`, log of what a role makes of a token that became known, over its weight in the evidence.
    """

    circuit: LatentCircuit
    arguments: dict[str, Any]
    roles: Array | None = None
    gain: Array | None = None

    @cached_property
    def evidence(self) -> Evidence:
        evidence = Evidence.from_logits(**self.arguments)
        if self.roles is None or self.gain is None:
            return evidence
        weights, tail = torch.from_numpy(self.roles), None
        if (ids := evidence.token_ids) is not None:
            everything = set(range(self.roles.shape[-1]))
            left_out = np.array([[min(everything - set(place), default=0) for place in row] for row in ids.tolist()])
            tail = torch.from_numpy(np.take_along_axis(self.roles, left_out[..., None, None], -1)[..., 0])
            weights = weights.gather(-1, ids[:, :, None].expand(-1, -1, weights.shape[2], -1))
        return dataclasses.replace(evidence, roles=Roles(weights, tail, torch.from_numpy(self.gain)))

    @cached_property
    def weights(self) -> Array:
        return weights_of(self.arguments)

    @property
    def shape(self) -> tuple[int, int]:
        batch_size, length = self.arguments["tokens"].shape
        return batch_size, length

    @property
    def absent(self) -> NDArray[np.bool_]:
        absent = self.arguments["absent"]
        return np.zeros(self.shape, dtype=bool) if absent is None else absent.numpy()

    @property
    def unknown(self) -> list[tuple[int, int]]:
        """(row, position) of every token that is not known, absent ones included."""
        known = (self.arguments["tokens"] != self.arguments["mask_token_id"]).numpy() & ~self.absent
        return [(int(row), int(position)) for row, position in np.argwhere(~known)]

    def known(self, tokens: dict[tuple[int, int], int]) -> "Scene":
        """The scene with further tokens known, made afresh."""
        values, absent = self.arguments["tokens"].clone(), torch.from_numpy(self.absent.copy())
        gain = None if self.gain is None else self.gain.copy()
        for place, token in tokens.items():
            if self.roles is not None and gain is not None and not absent[place]:
                gain[place] = np.log(self.roles[place][:, token] / self.weights[place][token])
            values[place], absent[place] = token, False
        return Scene(self.circuit, {**self.arguments, "tokens": values, "absent": absent}, self.roles, gain)

    def pairs(
        self,
        row: int,
        tables: dict[str, Array] | None = None,
        *,
        beyond: bool = False,
        absent_tokens: bool = False,
        potentials: bool = True,
    ) -> Pairs:
        """Enumerates one row; unless `absent_tokens`, an absent position has no token but 0, which counts nothing."""
        tables = tables or tables_of(self.circuit)
        length = self.shape[1]
        graph = graph_of(self.circuit, length, beyond)
        states, sequences = tuples(self.circuit.num_states, graph.num_nodes), tuples(self.circuit.vocab_size, length)
        prior = np.ones(len(states))
        for name, part, nodes in graph.factors:
            prior = prior * tables[name][part][tuple(states[:, node] for node in nodes)]
        phi = self.arguments["latent_potentials"]
        mass = np.broadcast_to(prior, (len(sequences), len(states)))
        for i, leaf in enumerate(graph.leaves):
            entries = tables["emission"][0 if self.circuit.homogeneous else i] * self.weights[row, i][:, None]
            entries = entries * self.role_factors(row, i)
            if self.absent[row, i] and not absent_tokens:
                entries = np.eye(self.circuit.vocab_size)[0][:, None] * np.ones(self.circuit.num_states)
            if phi is not None and potentials:
                entries = entries * np.exp(phi[row, i].numpy())
            mass = mass * entries[sequences[:, i]][:, states[:, leaf]]
        return Pairs(graph, sequences, states, mass)

    def role_factors(self, row: int, position: int) -> Array:
        """`(V, N)`, or what it spreads to: by what a state's role weighs a token more than the evidence does."""
        if self.roles is None or self.gain is None or self.absent[row, position]:
            return np.ones((1, 1))
        factors = np.exp(self.gain[row, position])[None]  # (1, R)
        if self.arguments["tokens"][row, position] == self.arguments["mask_token_id"]:
            factors = (self.roles[row, position] / self.weights[row, position]).T  # (V, R)
        return factors.repeat(self.circuit.num_states // factors.shape[1], 1)

    def log_partition(self) -> Tensor:
        return torch.tensor([self.pairs(row).log_z for row in range(self.shape[0])], dtype=torch.float64)

    def token_marginals(self) -> Tensor:
        vocab_size, found = self.circuit.vocab_size, []
        for row in range(self.shape[0]):
            pairs = self.pairs(row, absent_tokens=True)
            found.append((np.eye(vocab_size)[pairs.sequences] * pairs.completions[:, None, None]).sum(0))
        return torch.from_numpy(np.stack(found))

    def entropy(self) -> Tensor:
        found = []
        for row in range(self.shape[0]):
            mass = self.pairs(row).mass
            p = (mass / mass.sum())[mass > 0]
            found.append(-(p * np.log(p)).sum())
        return torch.tensor(found, dtype=torch.float64)

    def expected_counts(self, row: int) -> dict[str, Tensor]:
        """How often the latents and tokens of one row use each entry of each table."""
        counts = {name: np.zeros(table.shape) for name, table in tables_of(self.circuit).items()}
        pairs = self.pairs(row, beyond=True)
        posterior = pairs.mass / pairs.mass.sum()
        of_states = posterior.sum(0)
        for name, part, nodes in pairs.graph.factors:
            np.add.at(counts[name], (*part, *(pairs.states[:, node] for node in nodes)), of_states)
        for i in np.flatnonzero(~self.absent[row]):
            place = 0 if self.circuit.homogeneous else i
            for token in range(self.circuit.vocab_size):
                used = posterior[pairs.sequences[:, i] == token].sum(0)
                np.add.at(counts["emission"], (place, token, pairs.latents[:, i]), used)
        return {name: torch.from_numpy(count) for name, count in counts.items()}


def make_circuit(structure: str, num_states: int, vocab_size: int, block_length: int, seed: int = 0) -> LatentCircuit:
    circuit = STRUCTURES[structure](num_states, vocab_size, block_length).double()
    circuit.reset_parameters(torch.Generator().manual_seed(seed))  # type: ignore[operator]
    return circuit


def make_scene(
    circuit: LatentCircuit,
    *,
    batch_size: int = 2,
    length: int | None = None,
    seed: int = 0,
    observed: float = 0.3,
    absent: float = 0.0,
    top_k: int | None = None,
    temperature: float = 1.0,
    potentials: bool = False,
    roles: int = 0,
) -> Scene:
    """Random evidence; `observed` and `absent` are chances of a position, and may meet in one. 0 roles are none."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, length or circuit.block_length)
    vocab_size, num_states = circuit.vocab_size, circuit.num_states
    is_known, is_absent = (torch.rand(shape, generator=generator) < chance for chance in (observed, absent))
    tokens = torch.randint(vocab_size, shape, generator=generator)
    phi = torch.randn(*shape, num_states, generator=generator, dtype=torch.float64)
    arguments = {
        "logits": 2 * torch.randn(*shape, vocab_size, generator=generator, dtype=torch.float64),
        "tokens": tokens.masked_fill(~is_known, vocab_size),
        "mask_token_id": vocab_size,
        "temperature": temperature,
        "top_k": top_k,
        "keep": None,
        "absent": is_absent if absent else None,
        "latent_potentials": phi if potentials else None,
    }
    scene = Scene(circuit, arguments)
    if not roles:
        return scene
    reads = torch.rand(*shape, roles, vocab_size, generator=generator, dtype=torch.float64) + 0.1
    if (ids := scene.evidence.token_ids) is not None:  # tokens left out weigh the same
        kept = reads.gather(-1, (index := ids[:, :, None].expand(-1, -1, roles, -1)))
        reads = reads[..., :1].expand_as(reads).scatter(-1, index, kept)
    return Scene(circuit, arguments, reads.numpy(), np.zeros((*shape, roles)))


@st.composite
def circuits(draw: st.DrawFn, structure: str, max_length: int = 5) -> LatentCircuit:
    block_length = draw(st.sampled_from([length for length in (3, 5, 4, 2, 1) if length <= max_length]))
    num_nodes = graph_of(STRUCTURES[structure](1, 1, block_length), block_length).num_nodes
    sizes = [(n, v) for n in (2, 3, 1) for v in (3, 2, 4) if n**num_nodes * v**block_length <= ENOUGH]
    return make_circuit(structure, *draw(st.sampled_from(sizes)), block_length, draw(st.integers(0, 10_000)))


@st.composite
def scenes(draw: st.DrawFn, structure: str, max_length: int = 5) -> Scene:
    """Any mix of known, soft and absent positions, blocks of any length, dense or truncated."""
    circuit = draw(circuits(structure, max_length))
    return make_scene(
        circuit,
        batch_size=draw(st.sampled_from([2, 3, 1])),
        length=draw(st.sampled_from(range(circuit.block_length, 0, -1))),
        seed=draw(st.integers(0, 10_000)),
        observed=draw(st.sampled_from([0.3, 0.0, 1.0])),
        absent=draw(st.sampled_from([0.3, 0.0])),
        top_k=draw(st.sampled_from([2, 1, None, *range(3, circuit.vocab_size + 1)])),
        temperature=draw(st.sampled_from([1.0, 0.7, 2.5])),
        potentials=draw(st.booleans()),
        roles=draw(st.sampled_from([0, *(count for count in (1, 2, 3) if circuit.num_states % count == 0)])),
    )


def assert_frequencies(counts: Tensor, probabilities: Array, draws: int) -> None:
    """Counts within five standard deviations of what is expected (of one draw, where hardly any is)."""
    expected = torch.from_numpy(draws * probabilities)
    sigma = (expected * (1 - torch.from_numpy(probabilities))).clamp_min(1.0).sqrt()
    assert ((counts - expected).abs() / sigma).max() < 5
