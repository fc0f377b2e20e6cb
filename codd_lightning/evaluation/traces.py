"""Denoising traces of a few problems."""

from collections.abc import Sequence

from codd_lightning.backbones import AnyBackbone
from codd_lightning.circuits import Circuit
from codd_lightning.data import EncodedDataset
from codd_lightning.decoding import DecodingConfig, generate, steps_of
from codd_lightning.evaluation.markdown import trace_table
from codd_lightning.evaluation.rows import decoder_label
from codd_lightning.evaluation.settings import settings_of
from codd_lightning.seeding import sample_generator


def decode_traces(
    backbone: AnyBackbone,
    dataset: EncodedDataset,
    decoders: Sequence[DecodingConfig],
    steps_per_block: Sequence[int],
    *,
    circuit: Circuit | None,
    examples: int,
    seed: int,
) -> dict[str, str]:
    """Markdown of each decoder's trace on the first problems, by `decoder/steps_4/problem`.

    The texts are those of `evaluate_few_step`.

    Args:
        backbone: with a tokenizer.
        dataset: the problems.
        decoders: how to decode; their `steps` are replaced by the budgets.
        steps_per_block: the budgets.
        circuit: for the coupled decoders.
        examples: how many problems.
        seed: of all draws; each problem has its own.
    """
    problems = [dataset.example(position) for position in range(examples)]
    found = {}
    for setting in [each for decoder in decoders for each in settings_of(decoder, steps_per_block, circuit)]:
        generation = generate(
            backbone,
            [encoded.prompt for _, encoded in problems],
            setting.config.replace(trace=True),
            circuit=circuit,
            generator=[sample_generator(seed, 0, encoded.index, "decoding") for _, encoded in problems],
        )
        place = f"{decoder_label(setting.labels)}/steps_{setting.labels['steps_per_block']}"
        for number, (example, _) in enumerate(problems):
            title = f"{example.prompt} ({generation.nfe[number]} passes of the backbone)"
            table = trace_table(steps_of(generation, number, backbone), title)
            found[f"{place}/{number}"] = table
    return found
