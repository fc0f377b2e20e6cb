"""`codd generate`: a prompt in, texts out, with and without a circuit, side by side."""

import argparse
import json
import re

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import Circuit, load_circuit
from codd_lightning.cli.console import quiet_libraries
from codd_lightning.decoding import DecodingConfig, Generation, generate
from codd_lightning.errors import UserError

DEFAULT_STEPS_PER_BLOCK = 8


def generate_command(args: argparse.Namespace) -> int:
    """Decodes every prompt by the factorized proposal, and by a coupled one where there is a circuit."""
    config, coupled = _configs(args)
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed} must lie in [0, 2^63)")
    if args.circuit is None and args.proposal not in (None, "factorized"):
        raise UserError(f"--proposal {args.proposal} needs a --circuit")
    for prompt in args.prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError(f"prompt {prompt!r} is not valid text: it holds half a character") from None
    quiet_libraries()
    circuit = load_circuit(args.circuit) if args.circuit is not None else None
    backbone = load_backbone(args.backbone)
    if backbone.tokenizer is None:
        raise UserError(f"backbone {args.backbone} has no tokenizer, so it cannot read a prompt")
    results = {"factorized": _decode(backbone, args, config, None)}
    if circuit is not None and args.proposal != "factorized":
        results[str(coupled.proposal)] = _decode(backbone, args, coupled, circuit)
    _print(args, results)
    return 0


def _configs(args: argparse.Namespace) -> tuple[DecodingConfig, DecodingConfig]:
    """The factorized decoder and the coupled one."""
    blocks = max(-(-args.max_new_tokens // max(args.block_length, 1)), 1)
    try:
        config = DecodingConfig(
            proposal="factorized",
            remasking=args.remasking,
            eos=args.eos,
            steps=DEFAULT_STEPS_PER_BLOCK * blocks if args.steps is None else args.steps,
            max_new_tokens=args.max_new_tokens,
            block_length=args.block_length,
        )
        return config, config.replace(proposal=args.proposal or "any_order")
    except UserError as error:  # it names keys of a config; here they are options
        named = re.sub(r"decoding\.(\w+)=", lambda key: f"--{key[1].replace('_', '-')} ", str(error))
        raise UserError(named) from None


def _decode(
    backbone: Backbone, args: argparse.Namespace, config: DecodingConfig, circuit: Circuit | None
) -> Generation:
    generator = torch.Generator().manual_seed(args.seed)
    return generate(backbone, args.prompts, config, circuit=circuit, generator=generator)


def _print(args: argparse.Namespace, results: dict[str, Generation]) -> None:
    for number, prompt in enumerate(args.prompts):
        rows = [
            {
                "prompt": prompt,
                "decoder": decoder,
                "text": (generation.texts or [])[number],
                "ended": generation.ended[number],
                "nfe": generation.nfe[number],
                "circuit_calls": generation.circuit_calls[number],
            }
            for decoder, generation in results.items()
        ]
        if args.json:
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))
            continue
        table = Table(title=escape(prompt), title_justify="left", show_lines=True)
        table.add_column("decoder")
        table.add_column("passes", justify="right")
        table.add_column("text", overflow="fold")
        for row in rows:
            table.add_row(
                str(row["decoder"]), str(row["nfe"]), escape(str(row["text"])) + ("" if row["ended"] else " …")
            )
        Console().print(table)
