"""Few-step accuracy: the same problems, decoded by several decoders at several step budgets."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from codd_lightning.backbones import AnyBackbone
from codd_lightning.circuits import Circuit
from codd_lightning.data import EncodedDataset
from codd_lightning.decoding import DecodingConfig, Generation, generate
from codd_lightning.errors import UserError
from codd_lightning.evaluation.intervals import bootstrap_ratio, wilson
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.evaluation.sample_likelihood import sample_log_likelihood
from codd_lightning.evaluation.samples import InMemory, Key, Sample, Store, key_of
from codd_lightning.evaluation.settings import Setting, settings_of
from codd_lightning.seeding import sample_generator
from codd_lightning.tasks import Task

Progress = Callable[[Iterable["SampleBatch"]], Iterable["SampleBatch"]]


@dataclass(frozen=True)
class FewStepResult:
    """Rows of accuracies, and the samples they come from, setting by setting."""

    rows: list[Row]
    samples: list[list[Sample]]


@dataclass(frozen=True)
class SampleBatch:
    """Problems that are decoded together: the unit of work that is dealt out, and done whole or not at all."""

    setting: Setting
    positions: list[int]

    @property
    def keys(self) -> list[Key]:
        """Of its samples."""
        return [key_of({**self.setting.labels, "index": position}) for position in self.positions]


@dataclass(frozen=True)
class FewStepEvaluation:
    """Problems × settings, cut into batches that are the same however many processes share them.

    So every sample is decoded beside the same others, and comes out the same to the last bit.

    Attributes:
        task: grades the responses.
        dataset: the problems; the first `examples` are taken.
        settings: how to decode them.
        examples: how many problems.
        batch_size: most problems in a batch.
        batch_tokens: most tokens on its canvas, padding included; None for no such bound.
        likelihood: whether the backbone says of each sample how likely it is, in as many passes as it has tokens.
        seed: of all draws; each problem has its own.
        split: which the problems come from, for the rows.

    Raises:
        UserError: there are fewer problems than asked for.
    """

    task: Task
    dataset: EncodedDataset
    settings: Sequence[Setting]
    examples: int
    batch_size: int
    seed: int
    split: str
    batch_tokens: int | None = None
    likelihood: bool = False

    def __post_init__(self) -> None:
        if self.examples > len(self.dataset):
            raise UserError(f"examples={self.examples} is more than the {len(self.dataset)} of the {self.split} split")

    @cached_property
    def batches(self) -> list[SampleBatch]:
        """All work there is: in each setting, problems of similar length together."""
        found = []
        for setting in self.settings:
            lengths = [len(self._prompt(position, setting)) for position in range(self.examples)]
            response = setting.config.max_new_tokens
            chosen: list[int] = []
            for position in sorted(range(self.examples), key=lengths.__getitem__):
                canvas = (len(chosen) + 1) * (lengths[position] + response)  # the longest comes last
                full = len(chosen) == self.batch_size or (self.batch_tokens is not None and canvas > self.batch_tokens)
                if chosen and full:
                    found.append(SampleBatch(setting, chosen))
                    chosen = []
                chosen.append(position)
            found.append(SampleBatch(setting, chosen))
        return found

    def decode(
        self,
        backbone: AnyBackbone,
        circuit: Circuit | None,
        store: Store,
        rank: int = 0,
        world_size: int = 1,
        progress: Progress = iter,
    ) -> None:
        """Decodes every batch of this process that the store does not hold yet.

        Args:
            backbone: with a tokenizer.
            circuit: for the coupled decoders.
            store: keeps the samples, batch by batch.
            rank, world_size: batches are dealt out one by one.
            progress: wraps the batches that are left.
        """
        finished = store.finished()
        mine = [batch for batch in self.batches[rank::world_size] if not all(key in finished for key in batch.keys)]
        for batch in progress(mine):
            store.add(self.decode_batch(backbone, circuit, batch))

    def decode_batch(self, backbone: AnyBackbone, circuit: Circuit | None, batch: SampleBatch) -> list[Sample]:
        """The samples of one batch; one that does not fit into memory is decoded in halves.

        Raises:
            UserError: a single problem does not fit into memory.
        """
        return list(self._samples(backbone, circuit, batch))

    def result(self, store: Store) -> FewStepResult:
        """Rows and samples, once everything is decoded."""
        finished = store.finished()
        samples = [
            [
                Sample.of_record(
                    finished[key_of({**setting.labels, "index": position})], self.dataset.example(position)[0]
                )
                for position in range(self.examples)
            ]
            for setting in self.settings
        ]
        rows = [row for decoded in samples for row in accuracy_rows(decoded, self.split)]
        return FewStepResult(rows, samples)

    def _prompt(self, position: int, setting: Setting) -> list[int]:
        return self.dataset.prompt(position, setting.template)

    def _samples(self, backbone: AnyBackbone, circuit: Circuit | None, batch: SampleBatch) -> Iterator[Sample]:
        started = time.perf_counter()
        try:
            generation = self._generate(backbone, circuit, batch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if len(batch.positions) == 1:
                raise UserError(
                    f"one problem of {len(self._prompt(batch.positions[0], batch.setting))} tokens does not fit "
                    "into memory: use decoding.evidence_top_k, a smaller dtype, or a larger device"
                ) from None
            generation = None
        if generation is None:  # out of the handler, where the failed batch's tensors are still referred to
            half = len(batch.positions) // 2
            for part in (batch.positions[:half], batch.positions[half:]):
                yield from self._samples(backbone, circuit, SampleBatch(batch.setting, part))
            return
        seconds = (time.perf_counter() - started) / len(batch.positions)
        texts = generation.texts or [""] * len(batch.positions)
        log_likelihoods = self._log_likelihoods(backbone, batch, generation)
        for place, position in enumerate(batch.positions):
            example = self.dataset.example(position)[0]
            tokens = generation.response_tokens[place]
            yield Sample(
                index=position,
                labels=batch.setting.labels,
                example=example,
                text=texts[place],
                pieces=_pieces(backbone.tokenizer, generation.sequences[place][-tokens:] if tokens else []),
                grade=self.task.grade(example, texts[place], generation.ended[place]),
                ended=generation.ended[place],
                tokens=tokens,
                nfe=generation.nfe[place],
                circuit_calls=generation.circuit_calls[place],
                seconds=seconds,
                log_likelihood=log_likelihoods[place],
            )

    def _log_likelihoods(
        self, backbone: AnyBackbone, batch: SampleBatch, generation: Generation
    ) -> Sequence[float | None]:
        if not self.likelihood:
            return [None] * len(batch.positions)
        prompts = [self._prompt(position, batch.setting) for position in batch.positions]
        pairs = zip(generation.sequences, prompts, strict=True)
        responses = [sequence[len(prompt) :] for sequence, prompt in pairs]
        found: list[float] = sample_log_likelihood(
            backbone, prompts, responses, batch.setting.config.max_new_tokens
        ).tolist()
        return found

    def _generate(self, backbone: AnyBackbone, circuit: Circuit | None, batch: SampleBatch) -> Generation:
        indices = [self.dataset.example(position)[1].index for position in batch.positions]
        return generate(
            backbone,
            [self._prompt(position, batch.setting) for position in batch.positions],
            batch.setting.config,
            circuit=circuit,
            generator=[sample_generator(self.seed, 0, index, "decoding") for index in indices],
        )


def evaluate_few_step(
    backbone: AnyBackbone,
    task: Task,
    dataset: EncodedDataset,
    decoders: Sequence[DecodingConfig],
    steps_per_block: Sequence[int],
    *,
    circuit: Circuit | None = None,
    examples: int,
    batch_size: int,
    seed: int,
    split: str,
) -> FewStepResult:
    """Strict and flexible accuracy of every decoder at every step budget, on the same problems and seeds.

    Args:
        backbone: with a tokenizer.
        task: grades the responses.
        dataset: the problems; the first `examples` are taken.
        decoders: how to decode; their `steps` are replaced by the budgets.
        steps_per_block: the budgets.
        circuit: for the coupled decoders.
        examples: how many problems.
        batch_size: how many at once; problems of similar length go together.
        seed: of all draws; each problem has its own.
        split: which the problems come from, for the rows.

    Raises:
        UserError: there are fewer problems than asked for.
    """
    settings = [setting for decoder in decoders for setting in settings_of(decoder, steps_per_block, circuit)]
    evaluation = FewStepEvaluation(task, dataset, settings, examples, batch_size, seed, split)
    store = InMemory()
    evaluation.decode(backbone, circuit, store)
    return evaluation.result(store)


def accuracy_rows(samples: Sequence[Sample], split: str) -> list[Row]:
    """Strict and flexible accuracy of one setting, what it cost, and where that is known how likely its samples are."""
    n = len(samples)
    nfe = sum(sample.nfe for sample in samples)
    labels = {
        **samples[0].labels,
        "nfe": nfe / n,
        "tpf": sum(sample.tokens for sample in samples) / nfe,
        "circuit_calls": sum(sample.circuit_calls for sample in samples) / n,
        "seconds_per_sample": sum(sample.seconds for sample in samples) / n,
    }
    rows = []
    for metric, right in (
        ("strict_accuracy", sum(sample.grade.strict for sample in samples)),
        ("flexible_accuracy", sum(sample.grade.flexible for sample in samples)),
    ):
        low, high = wilson(right, n)
        rows.append(row(metric, right / n, low, high, n, "fraction", split, **labels))
    scored = [(sample.log_likelihood, sample.tokens) for sample in samples if sample.log_likelihood is not None]
    if sum(tokens for _, tokens in scored):
        nats = -torch.tensor([log_likelihood for log_likelihood, _ in scored], dtype=torch.float64)
        tokens = torch.tensor([tokens for _, tokens in scored], dtype=torch.float64)
        low, high = bootstrap_ratio(nats, tokens)
        value = float(nats.sum() / tokens.sum())
        rows.append(row("nll_of_samples", value, low, high, len(scored), "nats/token", split, **labels))
    return rows


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Each token as text of its own."""
    if tokenizer is None:
        return [str(token) for token in tokens]
    return [str(tokenizer.decode([token])) for token in tokens]
