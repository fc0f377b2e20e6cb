"""Entry point of `codd`: parses, dispatches, and turns errors into one line and an exit status.

Nothing heavy is imported before the command line is known to be right.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

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

    generate = commands.add_parser("generate", help="decode prompts, with and without a circuit")
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    generate.add_argument("--backbone", default="codd_tiny", help="bundled name, folder or Hub id (default: codd_tiny)")
    generate.add_argument("--circuit", help="folder or Hub id; without one only the factorized text is shown")
    generate.add_argument("--steps", type=int, help="denoising steps of the whole response (default: 4 a block)")
    generate.add_argument("--proposal", help="how the coupled text is drawn (default: any_order)")
    generate.add_argument("--remasking", default="left_to_right", help="how positions are ranked")
    generate.add_argument("--eos", default="last", help="any or last")
    generate.add_argument("--max-new-tokens", type=int, default=64)
    generate.add_argument("--block-length", type=int, default=32)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--json", action="store_true", help="one JSON object a prompt and decoder")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, 1 (our fault), 2 (mend the input), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        args = train_arguments().parse_intermixed_args(arguments[1:], argparse.Namespace(command="train"))
    else:
        args = build_parser().parse_args(arguments)
    try:
        return _dispatch(args)
    except KeyboardInterrupt as interrupt:
        print(f"codd: interrupted; {interrupt}" if str(interrupt) else "codd: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _report(error)


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "train":
        from codd_lightning.cli.train import train_command

        return train_command(args)
    from codd_lightning.cli.generate import generate_command

    return generate_command(args)


def _report(error: Exception) -> int:
    """One line on standard error: 2 for what the user can mend, 1 for a fault of ours."""
    if os.environ.get("CODD_TRACEBACK") == "1":
        traceback.print_exception(error)
    from codd_lightning.errors import UserError

    mendable: tuple[type[Exception], ...] = (UserError,)
    if "codd_lightning.circuits.errors" in sys.modules:
        mendable = (UserError, sys.modules["codd_lightning.circuits.errors"].CircuitError)
    message = " ".join(str(error).split())
    if isinstance(error, mendable):
        print(f"codd: {message}", file=sys.stderr)
        return 2
    log = getattr(error, "log_file", None)
    where = f"the traceback is in {log}" if log else "CODD_TRACEBACK=1 shows the traceback"
    print(f"codd: a fault of ours: {type(error).__name__}: {message} ({where})", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
