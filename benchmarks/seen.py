"""A circuit of all 151,936 tokens beside one of the tokens seen, on the responses of GSM8K.

    python benchmarks/seen.py --train gsm8k_train.jsonl --test gsm8k_test.jsonl [--states 256] [--steps 60]

No tokenizer of that size comes with the project: byte-level BPE is learnt from the training file itself, and its tokens
stand for those of a vocabulary of 151,936 that occur. The evidence stands for a backbone's: the true token and 63
others that occur, with weights drawn as if its logits were normal. Both circuits take the same steps on the same
blocks; parameters, seconds a step, and held-out log-likelihood given the evidence, in nats a token with its 95 %
interval over blocks.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from codd_lightning.circuits import HMM, Circuit, Evidence, Seen

VOCABULARY, BLOCK, TOP_K, BATCH_SIZE = 151_936, 32, 64, 16
TRUE_GAIN = 3.0  # what a true token's logit has on the others


def blocks_of(path: Path, tokenizer: Tokenizer) -> torch.Tensor:
    """`(M, 32)`: the responses of a file, one after another, cut into blocks."""
    texts = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    ids = [token for encoding in tokenizer.encode_batch(texts) for token in encoding.ids]
    return torch.tensor(ids[: len(ids) // BLOCK * BLOCK]).view(-1, BLOCK)


def evidence_for(tokens: torch.Tensor, among: torch.Tensor, generator: torch.Generator) -> Evidence:
    """Truncated evidence: the true tokens, and distinct ones of a list beside them, each as likely to be there."""
    rank = torch.rand(*tokens.shape, len(among), generator=generator)
    rank = rank.masked_fill(among == tokens[..., None], -1.0)  # the true one is there once
    ids = torch.cat([tokens[..., None], among[rank.topk(TOP_K - 1).indices]], -1)
    logits = torch.randn(ids.shape, generator=generator) + TRUE_GAIN * (ids == tokens[..., None])
    weights = torch.cat([logits, torch.zeros_like(logits[..., :1])], -1).softmax(-1)
    ids, order = ids.sort(-1)
    return Evidence(
        tokens=torch.zeros_like(tokens),
        observed=torch.zeros_like(tokens, dtype=torch.bool),
        weights=weights[..., :-1].gather(-1, order),
        vocab_size=VOCABULARY,
        token_ids=ids,
        tail=weights[..., -1] / (VOCABULARY - TOP_K),
    )


def trained(circuit: Circuit, train: torch.Tensor, among: torch.Tensor, steps: int) -> float:
    """Seconds a step."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(circuit.parameters(), 5e-2, betas=(0.9, 0.98), weight_decay=0.0)
    seconds = 0.0
    for _ in range(steps):
        tokens = train[torch.randint(len(train), (BATCH_SIZE,), generator=generator)]
        given = evidence_for(tokens, among, generator)
        start = time.perf_counter()
        loss = -circuit.log_conditional(tokens, given).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - start
    return seconds / steps


@torch.no_grad()
def held_out(circuit: Circuit, test: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """`(M,)` nats a token of each block."""
    generator = torch.Generator().manual_seed(2)
    parts = [(part, evidence_for(part, among, generator)) for part in test.split(16)]
    return torch.cat([circuit.log_conditional(tokens, given) / BLOCK for tokens, given in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--states", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [json.loads(line)["answer"] for line in args.train.read_text().splitlines()]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False, min_frequency=4)
    )
    train, test = blocks_of(args.train, tokenizer), blocks_of(args.test, tokenizer)[:256]
    seen = train.unique().tolist()
    unseen = float((~torch.isin(test, torch.tensor(seen))).float().mean())
    print(f"{len(seen)} of {VOCABULARY} tokens seen; {100 * unseen:.2f} % of the test's tokens are not", flush=True)
    scores = []
    for name in ("seen", "all"):
        torch.manual_seed(0)
        circuit: Circuit
        if name == "seen":
            circuit = Seen(HMM(args.states, len(seen) + 1, BLOCK), VOCABULARY, seen)
        else:
            circuit = HMM(args.states, VOCABULARY, BLOCK)
        seconds = trained(circuit, train, torch.tensor(seen), args.steps)
        scores.append(held_out(circuit, test, torch.tensor(seen)))
        half = 1.96 * float(scores[-1].std()) / math.sqrt(len(test))
        size = sum(p.numel() for p in circuit.parameters()) / 1e6
        print(
            f"{name}: {size:.1f} M parameters, {seconds:.3f} s a step, "
            f"held out {float(scores[-1].mean()):.3f} ± {half:.3f} nats a token (n = {len(test)} blocks)",
            flush=True,
        )
    gain = scores[0] - scores[1]
    half = 1.96 * float(gain.std()) / math.sqrt(len(test))
    print(f"seen over all, the same blocks: {float(gain.mean()):+.4f} ± {half:.4f}")


if __name__ == "__main__":
    main()
