"""Exact caching of a block-causal backbone: a bidirectional Llama of 110M parameters in blocks of 32, random weights.

    python benchmarks/block_cache.py [--new-tokens 128 512 1024] [--steps 4] [--threads T]

One prompt of 64 tokens, factorized decoding with `cache=none` and `cache=prefix`: seconds of each, and whether their
tokens are the same.
"""

import argparse
import time

import torch
from decoding import BLOCK, PROMPT, llama

from codd_lightning.backbones.block_causal import BlockCausalBackbone
from codd_lightning.decoding import DecodingConfig, generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--steps", type=int, default=4, help="per block")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    full = llama(torch.float32)
    backbone = BlockCausalBackbone(
        full.model, mask_token_id=full.mask_token_id, eos_token_ids=[], tokenizer=None, block_length=BLOCK
    )
    prompt = [torch.randint(full.mask_token_id, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()]
    print(f"{args.threads} threads, float32, {args.steps} steps a block")
    for length in args.new_tokens:
        seconds, tokens = {}, {}
        for cache in ("none", "prefix"):
            config = DecodingConfig(
                max_new_tokens=length, block_length=BLOCK, steps=args.steps * length // BLOCK, cache=cache
            )
            start = time.perf_counter()
            tokens[cache] = generate(backbone, prompt, config).sequences
            seconds[cache] = time.perf_counter() - start
        same = "the same" if tokens["none"] == tokens["prefix"] else "OTHER"
        print(
            f"{length:5d} tokens: {seconds['none']:7.1f} s without, {seconds['prefix']:6.1f} s with, "
            f"{seconds['none'] / seconds['prefix']:4.1f} times as fast, {same} tokens",
            flush=True,
        )


if __name__ == "__main__":
    main()
