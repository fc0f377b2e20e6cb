"""Where a circuit starts: as it was made, uniform, or distilled from a backbone; the best of several starts."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, as_backbone
from codd_lightning.circuits import EM, Anemone, Circuit, LatentCircuit, Seen
from codd_lightning.data import Batch, Blocks, TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.modules.blocks import (
    clean_blocks,
    conditional_log_likelihood,
    response_blocks,
    scored_blocks,
)
from codd_lightning.modules.counting import expected_counts
from codd_lightning.modules.noise import Noise
from codd_lightning.seeding import sample_generator

log = logging.getLogger("codd_lightning")

LLOYD_STEPS = 10  # of k-means
EM_STEPS = 3  # from clusters to tables; an HMM's are found in one
CERTAIN = 0.9  # how sure a position's cluster makes its state
TRIAL_LR = 0.2


@dataclass(frozen=True)
class Initialization:
    """How a circuit starts.

    Attributes:
        kind: "random" draws every table; "uniform" gives all tokens the same probability in every state, so that the
            coupled distribution starts as the backbone's own; "hidden_states" clusters the backbone's hidden states
            on clean text and counts how the clusters follow each other and which tokens they emit (latent
            variable distillation; Liu et al., 2023, arXiv 2210.04398).
        restarts: starts that are tried; the one with the best held-out CLL after `trial_steps` steps of EM is kept.
        trial_steps: batches that each start is tried on, if there are several.
        examples: training examples that clusters are found in, and held-out ones that starts are compared on.

    Raises:
        UserError: there is no such kind.
    """

    kind: str = "random"
    restarts: int = 1
    trial_steps: int = 20
    examples: int = 512

    def __post_init__(self) -> None:
        if self.kind not in STARTS:
            raise UserError(f"initialization.kind={self.kind} is not one of {', '.join(STARTS)}")

    @property
    def leaves_as_made(self) -> bool:
        """Whether there is nothing to do: a circuit is made at random."""
        return self.kind == "random" and self.restarts == 1

    @property
    def asks_backbone(self) -> bool:
        """Whether a start is found by running the backbone."""
        return self.kind == "hidden_states" or self.restarts > 1

    def __call__(self, circuit: Circuit, backbone: Any, data: TaskDataModule, noise: Noise) -> None:
        """Gives a circuit its start, in place.

        Args:
            circuit: with parameters to train.
            backbone: whose hidden states are clustered, and whose evidence starts are tried on.
            data: training examples, and held-out ones.
            noise: how they are masked in a trial; its seed is that of the starts.

        Raises:
            UserError: the circuit has no latent states to start, or the backbone no hidden states.
        """
        if self.leaves_as_made:
            return
        if not isinstance(circuit, LatentCircuit | Seen) or not any(p.requires_grad for p in circuit.parameters()):
            raise UserError(f"initialization.kind={self.kind} needs a circuit with parameters to train")
        backbone = as_backbone(backbone)
        start = STARTS[self.kind]
        if self.restarts == 1:
            start(circuit, backbone, data, self.examples, sample_generator(noise.seed, 0, 0, "initialization"))
            return
        training = self._trial_blocks(backbone, data, noise, "train", self.trial_steps * data.batch_size)
        held_out = self._trial_blocks(backbone, data, noise, "validation", self.examples)
        best, kept = -torch.inf, None
        for number in range(self.restarts):
            generator = sample_generator(noise.seed, 0, number, "initialization")
            start(circuit, backbone, data, self.examples, generator)
            initial = {name: value.clone() for name, value in circuit.state_dict().items()}
            optimizer = Anemone(circuit, lr=TRIAL_LR)
            for blocks in training:
                weights = torch.ones(len(blocks.tokens))
                counts, against = expected_counts(circuit, blocks, weights)
                optimizer.accumulate(counts, float(len(weights)), against)
                optimizer.step()
            cll = _mean_cll(circuit, held_out)
            log.info("start %d of %d: held-out CLL %.4f nats per masked token", number + 1, self.restarts, cll)
            if cll > best:
                best, kept = cll, initial
        assert kept is not None, "a mean of finite numbers is above minus infinity"
        circuit.load_state_dict(kept)

    def _trial_blocks(
        self, backbone: AnyBackbone, data: TaskDataModule, noise: Noise, split: str, examples: int
    ) -> list[Blocks]:
        batches = _batches(data, split, examples)
        noised = [(batch, noise(batch, backbone.mask_token_id, 0, f"{split} trial")) for batch in batches]
        return [scored_blocks(backbone, batch, masked, noise.block_length, None) for batch, masked in noised]


Start = Callable[[LatentCircuit | Seen, AnyBackbone, TaskDataModule, int, torch.Generator], None]


def _random(
    circuit: LatentCircuit | Seen,
    backbone: AnyBackbone,
    data: TaskDataModule,
    examples: int,
    generator: torch.Generator,
) -> None:
    circuit.reset_parameters(generator)


def _uniform(
    circuit: LatentCircuit | Seen,
    backbone: AnyBackbone,
    data: TaskDataModule,
    examples: int,
    generator: torch.Generator,
) -> None:
    circuit.reset_parameters(generator)
    circuit.forget_tokens()


@torch.no_grad()
def _hidden_states(
    circuit: LatentCircuit | Seen,
    backbone: AnyBackbone,
    data: TaskDataModule,
    examples: int,
    generator: torch.Generator,
) -> None:
    circuit.reset_parameters(generator)
    blocks, features = [], []
    for batch in _batches(data, "train", examples):
        columns = torch.arange(batch.prompt_length, batch.input_ids.shape[1])
        hidden = backbone.predict(
            batch.input_ids, columns, attention_mask=batch.attention_mask, response_start=batch.prompt_length
        ).hidden
        if hidden is None:
            raise UserError("initialization.kind=hidden_states: this backbone gives no hidden states")
        blocks.append(clean_blocks(batch, data.block_length, circuit.vocab_size).evidence)
        chosen = response_blocks(batch, batch.response_mask, data.block_length).any(-1)
        features.append(hidden.reshape(-1, data.block_length, hidden.shape[-1])[chosen].float())
    points = torch.cat(features).flatten(0, 1)
    points = (points - points.mean(0)) / points.std(0).clamp_min(1e-6)
    clusters = k_means(points, circuit.num_states, generator).view(-1, data.block_length)
    others = (1.0 - CERTAIN) / max(circuit.num_states - 1, 1)
    optimizer = EM(circuit, lr=1.0, pseudocount=1.0)
    for _ in range(EM_STEPS):
        for evidence, here in zip(blocks, clusters.split([e.batch_size for e in blocks]), strict=True):
            potentials = (
                torch.full((*here.shape, circuit.num_states), others).scatter(-1, here[..., None], CERTAIN).log()
            )
            hinted = dataclasses.replace(evidence, latent_potentials=potentials)
            optimizer.accumulate(circuit.expected_counts(hinted), float(len(here)))
        optimizer.step()


def k_means(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm from random points: the cluster of each of `(M, D)` points, `(M,)` long.

    A cluster that loses all its points takes a random one.
    """
    chosen = torch.randint(len(points), (clusters,), generator=generator)
    centers = points[chosen].clone()
    nearest = torch.zeros(len(points), dtype=torch.long)
    for _ in range(LLOYD_STEPS):
        nearest = torch.cat([torch.cdist(part, centers).argmin(-1) for part in points.split(8192)])
        sizes = torch.bincount(nearest, minlength=clusters)
        centers = torch.zeros_like(centers).index_add_(0, nearest, points) / sizes.clamp_min(1)[:, None]
        empty = (sizes == 0).nonzero().squeeze(-1)
        centers[empty] = points[torch.randint(len(points), (len(empty),), generator=generator)]
    return nearest


STARTS: dict[str, Start] = {"random": _random, "uniform": _uniform, "hidden_states": _hidden_states}


def _batches(data: TaskDataModule, split: str, examples: int) -> list[Batch]:
    """The first examples of a split, in batches."""
    dataset = data.dataset(split)
    numbers = range(min(examples, len(dataset)))
    return [
        data.collate([dataset[i] for i in numbers[start : start + data.batch_size]])
        for start in range(0, len(numbers), data.batch_size)
    ]


def _mean_cll(circuit: Circuit, held_out: list[Blocks]) -> float:
    """Nats per masked token."""
    with torch.no_grad():
        total = sum(float(conditional_log_likelihood(circuit, blocks).sum()) for blocks in held_out)
    return total / max(sum(int(blocks.masked.sum()) for blocks in held_out), 1)
