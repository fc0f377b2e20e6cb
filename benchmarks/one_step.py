"""What a circuit of experiments/one_step.yaml knows of a first block, all of it masked, token by token.

    python benchmarks/one_step.py RUN/circuit [--examples 200]

For held-out problems: nats a token, by the chain rule from left to right, of numbers and of everything else; and for
the state that the true text makes most probable at each number, how often it stands for the same slot (before,
operand, after) and for the same sentence as it mostly does. For the open states of a segmented HMM: how much the
context changes of what they say, the Kullback–Leibler divergence of E_h from E summed over the positions that each is
the most probable state of, and the shares of it that lie in few of them.
"""

import argparse
from collections import Counter, defaultdict

import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import Circuit, Context, Evidence, SegmentedHMM, load_circuit
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
    changed: list[torch.Tensor] = []
    for index in range(args.examples):
        example = task.example("validation", index, 0)
        tokens = tokenizer.encode(example.response)[:length]
        sentence = 0
        block = torch.tensor([tokens + [backbone.eos_token_ids[0]] * (length - len(tokens))])
        prompt = tokenizer.encode(example.prompt)
        evidence = evidence_before(backbone, prompt, block)
        scores, states = told(circuit, evidence, block)
        if isinstance(circuit, SegmentedHMM):
            changed.append(changed_by_context(circuit, evidence, states))
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
    if isinstance(circuit, SegmentedHMM):
        most = torch.stack(changed).sum(0).sort(descending=True).values.cumsum(0)
        counts = [count for count in (32, 64, 96) if count <= len(most)]
        shares = "".join(f", {float(most[count - 1] / most[-1]):.3f} in {count}" for count in counts)
        print(f"what the context changes: {float(most[-1]):.0f} nats in {circuit.open_states} states{shares}")


@torch.no_grad()
def evidence_before(backbone: Backbone, prompt: list[int], block: torch.Tensor) -> Evidence:
    """What the backbone says of a block of which nothing is known."""
    start, length = len(prompt), block.shape[1]
    canvas = torch.tensor([[*prompt, *[backbone.mask_token_id] * (2 * length)]])
    prediction = backbone.predict(canvas, torch.arange(start + length), response_start=start)
    masked = torch.full_like(block, backbone.mask_token_id)
    hidden = prediction.hidden
    assert hidden is not None
    context = Context(hidden[:, start:], hidden[:, :start], torch.ones(1, start, dtype=torch.bool))
    return Evidence.from_logits(prediction.logits[:, start:], masked, backbone.mask_token_id, context=context)


@torch.no_grad()
def told(circuit: Circuit, evidence: Evidence, block: torch.Tensor) -> tuple[list[float], list[int]]:
    """Log-probability of each token after those to its left, and the most probable states given all of them."""
    posterior = circuit.posterior(evidence)
    scores = []
    for position in range(block.shape[1]):
        marginal = posterior.token_marginals(torch.tensor([position]))
        scores.append(float(marginal[0, block[0, position]].log()))
        posterior.condition(0, position, block[0, position])
    return scores, posterior.mode().latents[0].tolist()


@torch.no_grad()
def changed_by_context(circuit: SegmentedHMM, evidence: Evidence, states: list[int]) -> torch.Tensor:
    """Nats by which the context changes what the states of a block say, `(M,)`, summed over its positions."""
    said = circuit.prepare(evidence).log_emission
    assert said is not None
    said = said[0].unflatten(-1, (circuit.segments, -1))  # (V, C, S)
    static = circuit.probabilities()[2].log().T  # (V, M)
    changed = torch.zeros(circuit.num_states)
    for latent in states:
        segment, state = divmod(latent, circuit.num_states)
        if state < circuit.open_states:
            here = said[:, segment, state]
            possible = here > -torch.inf
            nats = (here.exp() * (here - static[:, state]))[possible].sum()
            changed[state] += nats.clamp_min(0.0)  # rounding
    return changed


if __name__ == "__main__":
    main()
