"""Time of decoding with and without a circuit, side by side: a bidirectional Llama of 100M parameters, random weights.

    python benchmarks/decoding.py [--new-tokens 512] [--steps 1 4 8 32] [--json FILE]

Circuit: an HMM of 1,024 states over the vocabulary of 32,000, random, blocks of 32; evidence of 64 tokens a position.
Overhead is that of the whole call over the factorized one of the same run; parts are shares of the call's time.
The caches of keys and values are timed against the factorized decoder without one, with the share of tokens that
come out the same.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from codd_lightning.backbones import Backbone
from codd_lightning.circuits import HMM
from codd_lightning.decoding import DecodingConfig, Generation, generate

VOCABULARY, BLOCK, STATES, TOP_K, PROMPT = 32_000, 32, 1024, 64, 64
PROPOSALS = ("latent", "any_order", "marginal", "map")


def llama(dtype: torch.dtype) -> Backbone:
    """110 million parameters, head and embedding tied."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY + 1, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=2048, max_position_embeddings=1024, tie_word_embeddings=True, is_causal=False,
        use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).eval()
    return Backbone(model, mask_token_id=VOCABULARY, eos_token_ids=[], tokenizer=None)


class Stopwatch:
    """Seconds spent inside some functions of others."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Times every call of `owner.name`."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            found = function(*args, **options)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started
            return found

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 8, 32], help="per block")
    parser.add_argument("--batch-size", type=int, default=1, help="samples decoded together")
    parser.add_argument("--proposals", nargs="+", default=PROPOSALS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the backbone")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    backbone = llama(getattr(torch, args.dtype))
    torch.manual_seed(1)
    hmm = HMM(STATES, VOCABULARY + 1, BLOCK).requires_grad_(False)
    prompt = torch.randint(VOCABULARY, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    watch = Stopwatch()
    watch.wrap(backbone, "predict", "backbone")
    watch.wrap(hmm, "posterior", "posterior")

    def run(steps: int, **options: Any) -> tuple[float, dict[str, float], Generation]:
        config = DecodingConfig(
            steps=steps * -(-args.new_tokens // BLOCK), max_new_tokens=args.new_tokens, block_length=BLOCK,
            evidence_top_k=TOP_K, **options,
        )  # fmt: skip
        watch.seconds = {}
        started = time.perf_counter()
        written = generate(
            backbone, [prompt] * args.batch_size, config, circuit=None if options["proposal"] == "factorized" else hmm
        )
        return time.perf_counter() - started, dict(watch.seconds), written

    run(1, proposal="factorized")  # what the first call prepares is not of the method
    run(1, proposal="any_order")
    rows = []
    print("steps  proposal     cache    seconds  overhead   share of backbone, posterior, the rest")
    for steps in args.steps:
        baseline, _, plain = run(steps, proposal="factorized")
        for proposal, cache in (
            *((name, "none") for name in ("factorized", *args.proposals)),
            *(("factorized", kind) for kind in ("prefix", "dual") if steps > 1),
        ):
            total, parts, written = run(steps, proposal=proposal, cache=cache)
            shares = [parts.get("backbone", 0.0) / total, parts.get("posterior", 0.0) / total]
            if (proposal, cache) == ("factorized", "none"):
                total = baseline = min(baseline, total)
            pairs = zip(plain.sequences[0][PROMPT:], written.sequences[0][PROMPT:], strict=True)
            same = sum(a == b for a, b in pairs) / args.new_tokens
            rows.append(
                {
                    "steps_per_block": steps, "proposal": proposal, "cache": cache, "seconds": total,
                    "overhead": total / baseline - 1.0, "backbone": shares[0], "posterior": shares[1],
                    "same_as_factorized": same,
                }
            )  # fmt: skip
            note = f"   {100 * same:.0f} % of the tokens alike" if cache != "none" else ""
            print(
                f"{steps:5d}  {proposal:11s}  {cache:6s} {total:9.2f} {100 * rows[-1]['overhead']:8.1f} %   "
                f"{100 * shares[0]:5.1f} {100 * shares[1]:5.1f} {100 * (1 - sum(shares)):5.1f} %{note}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
