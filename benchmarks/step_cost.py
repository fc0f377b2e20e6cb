"""What a step of decoding costs with a circuit, beside the backbone's pass: multiply-adds and seconds.

    python benchmarks/step_cost.py CIRCUIT [CIRCUIT ...] [--threads T]

Test problems of the worded sums by `codd_tiny`, `any_order` from left to right, EOS last, batches of 64. A step is one
pass of the backbone over one block's canvas and all that the circuit is asked on its word, for one sample. Counted are
products of matrices and attention; seconds are of everything. The backbone's share is what the factorized decoder
takes in as many steps.
"""

import argparse
import json
import time
from math import prod
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import Circuit, load_circuit
from codd_lightning.decoding import DecodingConfig, Generation, generate
from codd_lightning.tasks import WordedSums

SAMPLES, BLOCK, LENGTH, BUDGETS, REPEATS = 64, 32, 64, (1, 4, 8), 3


def packed_linear(inputs: torch.Size, weights: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    """Operations of oneDNN's product by a packed matrix, which PyTorch does not count."""
    return 2 * prod(out_shape) * inputs[-1]


COUNTED = {torch.ops.mkldnn._linear_pointwise: packed_linear}


class Decoder:
    """Decodes the same problems with one circuit or none."""

    def __init__(self, circuit: Circuit | None) -> None:
        self.circuit = circuit
        self.backbone = load_backbone("codd_tiny", dtype=torch.float32)
        task = WordedSums(2, 3)
        self.prompts = [task.example("test", index, 0).prompt for index in range(SAMPLES)]

    def run(self, steps: int) -> Generation:
        config = DecodingConfig(
            proposal="factorized" if self.circuit is None else "any_order",
            remasking="left_to_right",
            eos="last",
            steps=steps * LENGTH // BLOCK,
            max_new_tokens=LENGTH,
            block_length=BLOCK,
        )
        generator = torch.Generator().manual_seed(0)
        return generate(self.backbone, self.prompts, config, circuit=self.circuit, generator=generator)

    def cost(self, steps: int) -> tuple[float, float]:
        """Multiply-adds and seconds of a step for a sample."""
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            passes = sum(self.run(steps).nfe)
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            self.run(steps)
            seconds.append(time.perf_counter() - started)
        return counter.get_total_flops() / 2 / passes, sorted(seconds)[REPEATS // 2] / passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("circuits", nargs="+", help="folders, or Hub ids")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    alone = {steps: Decoder(None).cost(steps) for steps in BUDGETS}
    for name in args.circuits:
        circuit = load_circuit(Path(name) if Path(name).is_dir() else name).eval()
        decoder = Decoder(circuit)
        for steps in BUDGETS:
            operations, seconds = decoder.cost(steps)
            found = {
                "circuit": circuit.structure,
                "parameters": sum(p.numel() for p in circuit.parameters()),
                "steps_per_block": steps,
                "backbone_multiply_adds_millions": round(alone[steps][0] / 1e6, 1),
                "circuit_multiply_adds_millions": round((operations - alone[steps][0]) / 1e6, 1),
                "backbone_ms": round(1e3 * alone[steps][1], 2),
                "circuit_ms": round(1e3 * (seconds - alone[steps][1]), 2),
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
