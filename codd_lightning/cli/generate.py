"""`codd generate`: prompts in, texts out, with and without a circuit, side by side."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from codd_lightning.backbones import Backbone, encode_prompt, load_backbone
from codd_lightning.circuits import Circuit
from codd_lightning.cli.circuit_files import circuit_of
from codd_lightning.cli.console import quiet_libraries
from codd_lightning.cli.trace import draw_trace
from codd_lightning.cli.tuned import tuned_for
from codd_lightning.decoding import DecodingConfig, Generation, generate
from codd_lightning.errors import UserError
from codd_lightning.evaluation.rows import decoder_label
from codd_lightning.seeding import sample_generator

DEFAULT_STEPS_PER_BLOCK = 8
DEFAULT_PROPOSAL = "any_order"  # of the coupled decoder
MOST_NEW_TOKENS = 100_000  # far beyond any backbone's positions


def generate_command(args: argparse.Namespace) -> int:
    """Decodes every prompt by the factorized proposal, and by a coupled one where there is a circuit."""
    config, coupled = _configs(args)  # what is wrong with the options shows before anything is loaded
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed} must lie in [0, 2^63)")
    if args.circuit is None and args.proposal not in (None, "factorized"):
        raise UserError(f"--proposal {args.proposal} needs a --circuit")
    if args.trace and args.json:
        raise UserError("--trace draws for people and --json writes for programs: choose one")
    if args.max_new_tokens > MOST_NEW_TOKENS:
        raise UserError(f"--max-new-tokens {args.max_new_tokens} is more than {MOST_NEW_TOKENS}")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size} must be at least 1")
    prompts = _prompts(args)
    quiet_libraries()
    circuit = circuit_of(args.circuit) if args.circuit is not None else None
    backbone = load_backbone(args.backbone)
    if backbone.tokenizer is None:
        raise UserError(f"backbone {args.backbone} has no tokenizer, so it cannot read a prompt")
    _warn_of_unknown(prompts, backbone)
    coupled = _tuned(args, coupled, circuit)
    decoders: list[tuple[DecodingConfig, Circuit | None]] = [(config, None)]
    if circuit is not None and args.proposal != "factorized":
        decoders.append((coupled, circuit))
    for start in range(0, len(prompts), args.batch_size):
        batch = prompts[start : start + args.batch_size]
        seeds = [sample_generator(args.seed, 0, start + i, "generate") for i in range(len(batch))]
        states = [generator.get_state() for generator in seeds]
        results: dict[DecodingConfig, Generation] = {}
        for decoder, with_circuit in decoders:
            for generator, state in zip(seeds, states, strict=True):  # every decoder draws from the same start
                generator.set_state(state)
            results[decoder] = generate(backbone, batch, decoder, circuit=with_circuit, generator=seeds)
        _print(args, backbone, batch, results)
    return 0


def _configs(args: argparse.Namespace) -> tuple[DecodingConfig, DecodingConfig]:
    """The factorized decoder and the coupled one."""
    blocks = max(-(-args.max_new_tokens // max(args.block_length, 1)), 1)
    try:
        config = DecodingConfig(
            paradigm=args.paradigm,
            proposal="factorized",
            remasking=args.remasking,
            eos=args.eos,
            steps=DEFAULT_STEPS_PER_BLOCK * blocks if args.steps is None else args.steps,
            max_new_tokens=args.max_new_tokens,
            block_length=args.block_length,
            gamma=1.0 if args.gamma is None else args.gamma,
            tau=0.0 if args.tau is None else args.tau,
            temperature=args.temperature,
            trace=args.trace,
        )
        return config, config.replace(proposal=args.proposal or DEFAULT_PROPOSAL)
    except UserError as error:  # it names keys of a config; here they are options
        named = re.sub(r"decoding\.(\w+)=", lambda key: f"--{key[1].replace('_', '-')} ", str(error))
        raise UserError(named) from None


def _tuned(args: argparse.Namespace, decoder: DecodingConfig, circuit: Circuit | None) -> DecodingConfig:
    """A decoder with γ and τ as they were chosen for it, where the user has not chosen."""
    chosen = tuned_for(circuit, decoder) or {}
    return decoder.replace(**{name: value for name, value in chosen.items() if getattr(args, name) is None})


def _prompts(args: argparse.Namespace) -> list[str]:
    """From the command line, a file (a line or a JSON object each), or standard input where neither is given."""
    if args.prompts and args.file:
        raise UserError("prompts were given both as arguments and by --file: choose one")
    if args.prompts:
        prompts = list(args.prompts)
    else:
        if args.file and args.file != "-":
            try:
                text = Path(args.file).read_text("utf-8-sig")
            except OSError as error:
                raise UserError(f"--file {args.file} cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise UserError(f"--file {args.file} is not text in UTF-8") from None
        else:
            if sys.stdin.isatty():
                raise UserError("there is no prompt: give some as arguments, by --file, or on standard input")
            text = sys.stdin.read()
        lines = [line for line in text.splitlines() if line.strip()]
        prompts = [_prompt_of(line, number) for number, line in enumerate(lines, 1)]
    if not prompts:
        raise UserError("there is no prompt: give some as arguments, by --file, or on standard input")
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError(f"prompt {prompt!r} is not valid text: it holds half a character") from None
    return prompts


def _warn_of_unknown(prompts: list[str], backbone: Backbone) -> None:
    """Says which prompts hold words that the backbone has never seen: it cannot tell them apart."""
    unknown = getattr(backbone.tokenizer, "unk_token_id", None)
    if unknown is None:
        return
    for prompt in prompts:
        tokens = encode_prompt(prompt, backbone.tokenizer)
        if found := tokens.count(unknown):
            shown = prompt if len(prompt) <= 60 else f"{prompt[:59]}…"
            print(f"codd: {found} of {len(tokens)} tokens of {shown!r} are unknown to the backbone", file=sys.stderr)


def _prompt_of(line: str, number: int) -> str:
    """A line as it is, or the `prompt` of a JSON object."""
    if not line.lstrip().startswith("{"):
        return line
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, RecursionError):
        return line  # text that happens to start with a brace
    except KeyError:
        raise UserError(f"line {number} of the prompts is a JSON object without a prompt") from None
    if not isinstance(prompt, str):
        raise UserError(f"line {number} of the prompts holds a prompt that is no text: {prompt!r}")
    return prompt


def _print(
    args: argparse.Namespace, backbone: Backbone, prompts: list[str], results: dict[DecodingConfig, Generation]
) -> None:
    for number, prompt in enumerate(prompts):
        if args.json:
            for decoder, generation in results.items():
                print(json.dumps(_row(prompt, decoder, generation, number), ensure_ascii=False))
            continue
        table = Table(title=escape(prompt), title_justify="left", show_lines=True)
        table.add_column("decoder", no_wrap=True)
        table.add_column("passes", justify="right")
        table.add_column("text", overflow="fold")
        for decoder, generation in results.items():
            row = _row(prompt, decoder, generation, number)
            label = decoder_label({**row, "remasking": decoder.remasking, "eos": decoder.eos})  # as tables name it
            if args.trace:
                Console().print(draw_trace(generation, number, backbone, f"{label}: {prompt}"))
            table.add_row(label, str(row["nfe"]), escape(str(row["text"])) + ("" if row["ended"] else " …"))
        Console().print(table)


def _row(prompt: str, decoder: DecodingConfig, generation: Generation, number: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "decoder": decoder.proposal,
        "text": (generation.texts or [])[number],
        "ended": generation.ended[number],
        "nfe": generation.nfe[number],
        "circuit_calls": generation.circuit_calls[number],
    }
