"""How much of the factorization barrier a circuit removes, where all right answers can be listed. No draws: sums."""

import math
from typing import Any

import torch

from codd_lightning.backbones import as_backbone, encode_prompt
from codd_lightning.circuits import Circuit, Evidence
from codd_lightning.data import EncodedDataset
from codd_lightning.decoding import context_of
from codd_lightning.errors import UserError
from codd_lightning.evaluation.intervals import bootstrap_ratio
from codd_lightning.evaluation.rows import Row, row


@torch.no_grad()
def evaluate_barrier(
    backbone: Any, task: Any, dataset: EncodedDataset, *, circuit: Circuit | None, examples: int, split: str
) -> list[Row]:
    """Of the first problems of a split, at a fully masked block: what is lost, and how often one step is right.

    `nats_left` is the mean of `−log p̂(x)` over a problem's right answers less the log of their number, in nats: 0
    where the prediction is uniform over them. `one_step_right` is their probability together. Each for the factorized
    prediction and, with a circuit, for the coupled one.

    Args:
        backbone: with a tokenizer.
        task: lists its `answers`.
        dataset: the problems.
        circuit: adds the coupled prediction.
        examples: how many problems.
        split: which they come from, for the rows.

    Raises:
        UserError: the task's answers cannot be listed.
    """
    if not hasattr(task, "answers"):
        raise UserError(f"evaluation.barrier_examples: the answers of {type(task).__name__} cannot be listed")
    backbone = as_backbone(backbone)
    measured: dict[tuple[str, str], list[float]] = {}
    for position in range(min(examples, len(dataset))):
        example, encoded = dataset.example(position)
        answers = task.answers(example.prompt)
        length = len(encoded.response)
        texts = [" ".join(answer) for answer in answers.listed]
        tokens = torch.full((len(texts), length), backbone.eos_token_ids[0])
        for number, text in enumerate(texts):
            ids = encode_prompt(text, backbone.tokenizer)
            tokens[number, : len(ids)] = torch.tensor(ids)
        masked = torch.full((1, length), backbone.mask_token_id)
        canvas = torch.cat([torch.tensor([encoded.prompt]), masked], 1)
        columns = torch.arange(len(encoded.prompt), canvas.shape[1])
        prediction = backbone.predict(canvas, columns)
        context = None
        if circuit is not None:
            start = columns[:1]
            whole = torch.ones_like(canvas)
            context = context_of(prediction, circuit.reads, prediction.hidden, torch.zeros_like(start), start, whole)
        evidence = Evidence.from_logits(prediction.logits, masked, backbone.mask_token_id, context=context)
        found = {"factorized": evidence.log_weight(tokens)}
        if circuit is not None:
            found["any_order"] = circuit.log_conditional(tokens, evidence)
        for decoder, log_prob in found.items():
            left = -float(log_prob.double().mean()) - math.log(len(texts))
            measured.setdefault(("nats_left", decoder), []).append(left)
            measured.setdefault(("one_step_right", decoder), []).append(float(log_prob.double().exp().sum()))
    rows = []
    for (name, decoder), values in measured.items():
        column = torch.tensor(values, dtype=torch.float64)
        low, high = bootstrap_ratio(column, torch.ones_like(column))
        unit = "nats/problem" if name == "nats_left" else "fraction"
        rows.append(row(name, float(column.mean()), low, high, len(values), unit, split, head=decoder))
    return rows
