"""Few-step accuracy: the same problems, decoded by several decoders at several step budgets."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from codd_lightning.backbones import AnyBackbone
from codd_lightning.circuits import Circuit
from codd_lightning.data import EncodedDataset
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.errors import UserError
from codd_lightning.evaluation.intervals import wilson
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.seeding import sample_generator
from codd_lightning.tasks import Example, Grade, Task


@dataclass(frozen=True)
class Sample:
    """One decoded response and its grades."""

    example: Example
    decoder: str
    steps_per_block: int
    text: str
    grade: Grade
    nfe: int
    response_tokens: int
    circuit_calls: int


@dataclass(frozen=True)
class FewStepResult:
    """Rows of accuracies, and the samples they come from, decoder by decoder."""

    rows: list[Row]
    samples: list[list[Sample]]


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
    progress: Callable[[Iterable[tuple[DecodingConfig, int]]], Iterable[tuple[DecodingConfig, int]]] = iter,
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
        progress: wraps the settings that are gone through.

    Raises:
        UserError: there are fewer problems than asked for.
    """
    if examples > len(dataset):
        raise UserError(f"examples={examples} is more than the {len(dataset)} of the {split} split")
    problems = [dataset.example(position) for position in range(examples)]
    by_length = sorted(range(examples), key=lambda i: len(problems[i][1].prompt))
    settings = [(decoder, budget) for decoder in decoders for budget in steps_per_block]
    rows: list[Row] = []
    all_samples: list[list[Sample]] = []
    for decoder, budget in progress(settings):
        config = decoder.replace(steps=budget * decoder.blocks)
        name = config.proposal or ("factorized" if circuit is None else "any_order")
        samples: dict[int, Sample] = {}
        started = time.perf_counter()
        for start in range(0, examples, batch_size):
            chosen = by_length[start : start + batch_size]
            generation = generate(
                backbone,
                [problems[i][1].prompt for i in chosen],
                config,
                circuit=circuit,
                generator=[sample_generator(seed, 0, problems[i][1].index, "decoding") for i in chosen],
            )
            texts = generation.texts or [""] * len(chosen)
            for place, i in enumerate(chosen):
                example = problems[i][0]
                samples[i] = Sample(
                    example=example,
                    decoder=name,
                    steps_per_block=budget,
                    text=texts[place],
                    grade=task.grade(example, texts[place], generation.ended[place]),
                    nfe=generation.nfe[place],
                    response_tokens=generation.response_tokens[place],
                    circuit_calls=generation.circuit_calls[place],
                )
        seconds = time.perf_counter() - started
        ordered = [samples[i] for i in range(examples)]
        all_samples.append(ordered)
        rows += _accuracy_rows(ordered, config, name, budget, split, seconds)
    return FewStepResult(rows, all_samples)


def _accuracy_rows(
    samples: Sequence[Sample], config: DecodingConfig, name: str, budget: int, split: str, seconds: float
) -> list[Row]:
    n = len(samples)
    nfe = sum(sample.nfe for sample in samples)
    labels = {
        "decoder": name,
        "remasking": config.remasking,
        "eos": config.eos,
        "steps_per_block": budget,
        "nfe": nfe / n,
        "tpf": sum(sample.response_tokens for sample in samples) / nfe,
        "circuit_calls": sum(sample.circuit_calls for sample in samples) / n,
        "seconds_per_sample": seconds / n,
    }
    rows = []
    for metric, right in (
        ("strict_accuracy", sum(sample.grade.strict for sample in samples)),
        ("flexible_accuracy", sum(sample.grade.flexible for sample in samples)),
    ):
        low, high = wilson(right, n)
        rows.append(row(metric, right / n, low, high, n, "fraction", split, **labels))
    return rows
