"""What experiments/laptop.yaml takes at home: a randomly initialised model of the size of Qwen3-0.6B, stage by stage.

    python benchmarks/laptop.py [--dtype bfloat16 float32] [--threads T]

A process for each type: seconds to load, for the evidence of an example (192 prompt and 192 response tokens), for an
optimizer step on 8 examples, and to decode a response by both decoders of the experiment; peak memory; and from
them how long the experiment takes. The tokens are random, and so is which tokens the circuit has seen.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, Evidence, Seen
from codd_lightning.decoding import DecodingConfig, generate

PROMPT, RESPONSE, BLOCK, TOP_K, STATES, SEEN, BATCH_SIZE = 192, 192, 32, 64, 256, 8000, 8
EXAMPLES, HELD_OUT, EPOCHS, DECODED, STEPS = 512, 32, 4, 16, 8  # as in the experiment
PATIENCE = 60.0  # seconds for an example; a machine that emulates a type takes longer, and is asked for no more
VOCABULARY, MASK = 151_936, 151_669


def write_model(folder: Path) -> None:
    """Random weights in bfloat16, in the a2d format."""
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, intermediate_size=3072, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "a2d-qwen3", "mask_token_id": MASK}))


def measure(folder: str, dtype: str) -> dict[str, float]:
    start = time.perf_counter()
    backbone = load_backbone(folder, dtype=dtype, attention="block_causal", block_length=BLOCK)
    found = {"load": time.perf_counter() - start, "parameters": float(sum(p.numel() for p in backbone.parameters()))}
    generator = torch.Generator().manual_seed(0)
    columns = torch.arange(PROMPT, PROMPT + RESPONSE)

    def evidence_of(count: int) -> tuple[Evidence, torch.Tensor]:
        canvas = torch.randint(MASK, (count, PROMPT + RESPONSE), generator=generator)
        tokens = canvas[:, -BLOCK:].clone()
        canvas[:, -BLOCK:] = MASK
        with torch.no_grad():
            logits = backbone.predict(canvas, columns, response_start=PROMPT).logits
        return Evidence.from_logits(logits[:, -BLOCK:], canvas[:, -BLOCK:], MASK, top_k=TOP_K, keep=tokens), tokens

    start = time.perf_counter()
    evidence_of(1)
    found["evidence"] = time.perf_counter() - start
    if found["evidence"] > PATIENCE:
        found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return found
    start = time.perf_counter()
    given, tokens = evidence_of(BATCH_SIZE)
    found["evidence"] = (time.perf_counter() - start) / BATCH_SIZE

    seen = sorted({*torch.randperm(MASK, generator=generator)[:SEEN].tolist(), *tokens.unique().tolist()})
    circuit = Seen(HMM(STATES, len(seen) + 1, BLOCK), VOCABULARY, seen)
    optimizer = torch.optim.AdamW(circuit.parameters(), 3e-2)
    for repeat in range(4):
        if repeat == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        (-circuit.log_conditional(tokens, given).mean()).backward()
        optimizer.step()
    found["step"] = (time.perf_counter() - start) / 3

    prompt = [torch.randint(MASK, (PROMPT,), generator=generator).tolist()]
    for proposal in ("factorized", "any_order"):
        config = DecodingConfig(
            max_new_tokens=RESPONSE, block_length=BLOCK, steps=STEPS * RESPONSE // BLOCK, proposal=proposal,
            eos="last", cache="prefix", evidence_top_k=TOP_K,
        )  # fmt: skip
        start = time.perf_counter()
        generate(backbone, prompt, config, circuit if proposal == "any_order" else None)
        found[proposal] = time.perf_counter() - start
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for dtype in args.dtype:
            command = [sys.executable, __file__, "--threads", str(args.threads), "--measure", folder, dtype]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            said = f"{dtype}, {args.threads} threads, {found['parameters'] / 1e6:.0f}M parameters"
            if "step" not in found:
                memory = f"{found['memory']:.1f} GiB at most"
                print(f"{said}: {found['evidence']:.0f} s for one example of evidence, {memory}; asked no more")
                continue
            cache = found["load"] + (EXAMPLES + HELD_OUT) * found["evidence"]
            train = EPOCHS * EXAMPLES / BATCH_SIZE * found["step"]
            test = HELD_OUT * found["evidence"] + DECODED * (found["factorized"] + found["any_order"])
            rates = f"evidence {found['evidence']:.2f} s an example, step {found['step']:.2f} s"
            decoding = f"decoding {found['factorized']:.1f} s factorized and {found['any_order']:.1f} s coupled"
            total = f"cache {cache / 60:.0f} min, train {train / 60:.1f} min, evaluate {test / 60:.0f} min"
            print(
                f"{said}: load {found['load']:.1f} s, {rates}, {decoding}, {found['memory']:.1f} GiB at most; {total}",
                flush=True,
            )


if __name__ == "__main__":
    main()
