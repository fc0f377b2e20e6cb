"""The command line of `codd`."""

import argparse
from typing import NoReturn

DESCRIPTION = """\
Coupled Discrete Diffusion: train a small tractable joint distribution (a circuit) on a frozen
masked-diffusion language model, and watch its few-step decoding improve.

Start here:
  codd train quickstart                      train a circuit on the bundled backbone (minutes on a laptop)
  codd generate "Ben has 3 coins. ..." --circuit codd_tiny_one_step
                                             decode a prompt with and without a circuit (this one is bundled)
  tensorboard --logdir outputs               watch it
"""


# Commands that take an experiment, composed alike.
EXPERIMENT_COMMANDS = {
    "train": "run an experiment",
    "cache": "keep the frozen backbone's evidence, to train circuits without it",
    "evaluate": "measure what is trained already",
    "tune": "choose γ and τ of the coupled decoders on held-out data",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"codd: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `codd`."""
    parser = Parser(prog="codd", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    for command, purpose in EXPERIMENT_COMMANDS.items():
        commands.add_parser(command, parents=[experiment_arguments(command)], help=purpose, add_help=False)

    generate = commands.add_parser(
        "generate",
        help="decode prompts, with and without a circuit",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    generate.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts; none: read --file or standard input")
    generate.add_argument("--file", help="prompts, a line each or JSON lines with a prompt; - is standard input")
    generate.add_argument("--backbone", default="codd_tiny", help="bundled name, folder or Hub id")
    generate.add_argument(
        "--circuit",
        help="bundled name, folder (also of a run), checkpoint or Hub id; without one only the factorized text",
    )
    generate.add_argument("--steps", type=int, help="denoising steps of the whole response; 8 a block if left out")
    generate.add_argument("--paradigm", default="block", help="block or full")
    generate.add_argument("--proposal", help="how the coupled text is drawn; any_order if left out")
    generate.add_argument(
        "--remasking",
        default="low_confidence",
        help="how positions are ranked: low_confidence, margin, entropy, left_to_right or random",
    )
    generate.add_argument("--eos", default="last", help="any or last")
    generate.add_argument("--max-new-tokens", type=int, default=64, help="length of the response")
    generate.add_argument("--block-length", type=int, default=32, help="of a block or window")
    generate.add_argument(
        "--gamma", type=float, help="the circuit acts up to this masked share; what codd tune chose, or 1, if left out"
    )
    generate.add_argument(
        "--tau",
        type=float,
        help="of the coupled draw, 0 takes the most probable; what codd tune chose, or 0, if left out",
    )
    generate.add_argument("--temperature", type=float, default=0.0, help="of the backbone's draw; 0 is greedy")
    generate.add_argument("--batch-size", type=int, default=64, help="prompts decoded together")
    generate.add_argument("--seed", type=int, default=0, help="of all draws")
    generate.add_argument("--json", action="store_true", help="one JSON object a prompt and decoder (JSON lines)")
    generate.add_argument("--trace", action="store_true", help="draw the denoising, a line for each step")

    report = commands.add_parser("report", help="tables, figures and a page from finished runs")
    report.add_argument("outputs", metavar="OUTPUTS", help="a folder that holds runs, at any depth")
    report.add_argument("--html", action="store_true", help="also one page that needs no network")

    importing = commands.add_parser("import", help="read a PyJuice .jpc file into a circuit folder")
    importing.add_argument("file", metavar="FILE.jpc")
    importing.add_argument("folder", metavar="FOLDER")

    exporting = commands.add_parser("export", help="write the circuit of a run, checkpoint or folder by itself")
    exporting.add_argument(
        "source",
        metavar="SOURCE",
        help="a bundled name, a run's or circuit's folder, a checkpoint (sharded too), or a Hub id",
    )
    exporting.add_argument("folder", metavar="FOLDER")
    exporting.add_argument("--format", choices=("folder", "jpc"), default="folder", help="jpc is PyJuice's")

    demo = commands.add_parser(
        "demo",
        help="a page that shows what a circuit does, step by step",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--backbone", default="codd_tiny", help="bundled name, folder or Hub id")
    demo.add_argument(
        "--circuit",
        help="bundled name, folder (also of a run), checkpoint or Hub id; the newest of outputs/quickstart if left out",
    )
    demo.add_argument("--host", default="127.0.0.1", help="address to serve at")
    demo.add_argument("--port", type=int, help="a free one from 7860 on if left out")
    demo.add_argument("--seed", type=int, default=0, help="of all draws")
    commands.add_parser("lm-eval", help="lm-eval's own command line, with --model codd", add_help=False)
    for writing in (importing, exporting):
        writing.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    return parser


def quoted(override: str) -> str:
    """An override whose value has an = of its own, as a grid's folders do, in the quotes that Hydra wants for it."""
    key, _, value = override.partition("=")
    return f"{key}='{value}'" if "=" in value and not set(value) & set("'\"\\([{") else override


def experiment_arguments(command: str) -> Parser:
    """What a command on an experiment takes.

    Apart from the other commands, because only a parser without subcommands reads `a=1 -m b=2`.
    """
    parser = Parser(prog=f"codd {command}", add_help=False)
    parser.add_argument(
        "experiment", nargs="?", metavar="EXPERIMENT", help="a name in experiments/ or a path to a YAML"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to its configuration")
    if command == "train":
        parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of key=a,b,c")
    parser.add_argument("-h", "--help", action="store_true", help="list the experiment's groups and keys")
    return parser
