"""The command line of `codd`."""

import argparse

DESCRIPTION = """\
Coupled Discrete Diffusion: train a small tractable joint distribution (a circuit) on a frozen
masked-diffusion language model, and watch its few-step decoding improve.

Start here:
  codd train quickstart                      train a circuit on the bundled backbone (minutes on a laptop)
  codd generate "Ada has 3 apples. ..."      decode a prompt with and without a circuit, side by side
  tensorboard --logdir outputs               watch it
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `codd`."""
    parser = argparse.ArgumentParser(
        prog="codd", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    commands.add_parser("train", parents=[train_arguments()], help="run an experiment", add_help=False)

    generate = commands.add_parser(
        "generate",
        help="decode prompts, with and without a circuit",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    generate.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts; none: read --file or standard input")
    generate.add_argument("--file", help="prompts, a line each or JSON lines with a prompt; - is standard input")
    generate.add_argument("--backbone", default="codd_tiny", help="bundled name, folder or Hub id")
    generate.add_argument(
        "--circuit", help="folder (also of a run) or Hub id; without one only the factorized text is shown"
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
    generate.add_argument("--gamma", type=float, default=1.0, help="the circuit acts up to this masked share")
    generate.add_argument("--tau", type=float, default=0.0, help="of the coupled draw; 0 takes the most probable")
    generate.add_argument("--temperature", type=float, default=0.0, help="of the backbone's draw; 0 is greedy")
    generate.add_argument("--batch-size", type=int, default=64, help="prompts decoded together")
    generate.add_argument("--seed", type=int, default=0, help="of all draws")
    generate.add_argument("--json", action="store_true", help="one JSON object a prompt and decoder (JSON lines)")
    generate.add_argument("--trace", action="store_true", help="draw the denoising, a line for each step")

    importing = commands.add_parser("import", help="read a PyJuice .jpc file into a circuit folder")
    importing.add_argument("file", metavar="FILE.jpc")
    importing.add_argument("folder", metavar="FOLDER")

    exporting = commands.add_parser("export", help="write the circuit of a run, checkpoint or folder by itself")
    exporting.add_argument(
        "source", metavar="SOURCE", help="a run's or circuit's folder, a checkpoint (sharded too), or a Hub id"
    )
    exporting.add_argument("folder", metavar="FOLDER")
    exporting.add_argument("--format", choices=("folder", "jpc"), default="folder", help="jpc is PyJuice's")
    for command in (importing, exporting):
        command.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    return parser


def train_arguments() -> argparse.ArgumentParser:
    """What `codd train` takes; apart from the rest because only a parser without commands reads `a=1 -m b=2`."""
    parser = argparse.ArgumentParser(prog="codd train", add_help=False)
    parser.add_argument(
        "experiment", nargs="?", metavar="EXPERIMENT", help="a name in experiments/ or a path to a YAML"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to its configuration")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of key=a,b,c")
    parser.add_argument("-h", "--help", action="store_true", help="list the experiment's groups and keys")
    return parser
