"""What a circuit of experiments/one_step.yaml knows of a first block, all of it masked, token by token.

    python benchmarks/one_step.py RUN/circuit [--examples 200]

For held-out problems: nats a token, by the chain rule from left to right, of numbers and of everything else; and for
the state that the true text makes most probable at each number, how often it stands for the same slot (before,
operand, after) and for the same sentence as it mostly does.
"""

import argparse
from collections import Counter, defaultdict

import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import Circuit, Context, Evidence, load_circuit
from codd_lightning.tasks import WordedSums
from codd_lightning.tasks.worded_sums import Step

SLOTS = ("before", "operand", "after")


def slot_of(step: Step, number: int) -> str | None:
    """Which number of a step a text means; None where two are the same."""
    found = [slot for slot in SLOTS if getattr(step, slot) == number]
    return found[0] if len(found) == 1 else None


def share_of_mode(counts: dict[int, Counter[str]]) -> float:
    return sum(max(c.values()) for c in counts.values()) / sum(c.total() for c in counts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("circuit")
    parser.add_argument("--examples", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone, circuit = load_backbone("codd_tiny"), load_circuit(args.circuit)
    tokenizer, length = backbone.tokenizer, circuit.block_length
    assert tokenizer is not None
    task = WordedSums()
    nats: dict[str, list[float]] = defaultdict(list)
    slots: dict[int, Counter[str]] = defaultdict(Counter)
    sentences: dict[int, Counter[str]] = defaultdict(Counter)
    for index in range(args.examples):
        example = task.example("validation", index, 0)
        tokens = tokenizer.encode(example.response)[:length]
        sentence = 0
        block = torch.tensor([tokens + [backbone.eos_token_ids[0]] * (length - len(tokens))])
        scores, states = told(backbone, circuit, tokenizer.encode(example.prompt), block)
        for position, token in enumerate(tokens):
            word = tokenizer.decode([token]).strip()
            nats["numbers" if word.isdigit() else "everything else"].append(-scores[position])
            if word.isdigit() and sentence < len(example.problem.steps):
                slot = slot_of(example.problem.steps[sentence], int(word))
                if slot is not None:
                    slots[states[position]][slot] += 1
                    sentences[states[position]][str(sentence)] += 1
            sentence += word == "."
    everything = sum(len(values) for values in nats.values())
    for kind, values in nats.items():
        share = len(values) / everything
        print(f"{kind}: {sum(values) / len(values):.3f} nats a token, {share:.2f} of {everything} tokens")
    print(f"states of numbers: slot {share_of_mode(slots):.3f}, sentence {share_of_mode(sentences):.3f} as mostly")


@torch.no_grad()
def told(backbone: Backbone, circuit: Circuit, prompt: list[int], block: torch.Tensor) -> tuple[list[float], list[int]]:
    """Log-probability of each token after those to its left, and the most probable states given all of them."""
    start, length = len(prompt), block.shape[1]
    canvas = torch.tensor([[*prompt, *[backbone.mask_token_id] * (2 * length)]])
    prediction = backbone.predict(canvas, torch.arange(start + length), response_start=start)
    masked = torch.full_like(block, backbone.mask_token_id)
    hidden = prediction.hidden
    assert hidden is not None
    context = Context(hidden[:, start:], hidden[:, :start], torch.ones(1, start, dtype=torch.bool))
    logits = prediction.logits[:, start:]
    posterior = circuit.posterior(Evidence.from_logits(logits, masked, backbone.mask_token_id, context=context))
    scores = []
    for position in range(length):
        marginal = posterior.token_marginals(torch.tensor([position]))
        scores.append(float(marginal[0, block[0, position]].log()))
        posterior.condition(0, position, block[0, position])
    return scores, posterior.mode().latents[0].tolist()


if __name__ == "__main__":
    main()
