"""Entry point of `codd`: parses, dispatches, and turns errors into one line and an exit status.

Nothing heavy is imported before the command line is known to be right.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from codd_lightning.cli.arguments import build_parser, train_arguments
from codd_lightning.cli.failure import report_error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, 1 (our fault), 2 (mend the input), 130 (Ctrl-C)."""
    # Threads that wait in a busy loop: one other busy process on the machine makes everything ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        args = train_arguments().parse_intermixed_args(arguments[1:], argparse.Namespace(command="train"))
    else:
        args = build_parser().parse_args(arguments)
    try:
        return _dispatch(args)
    except BrokenPipeError:  # whoever reads our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # so that closing it says nothing more
        return 0
    except (KeyboardInterrupt, Exception) as error:
        return report_error(error)


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "train":
        from codd_lightning.cli.train import train_command

        return train_command(args)
    if args.command in ("import", "export"):
        from codd_lightning.cli.circuit_files import export_command, import_command

        return import_command(args) if args.command == "import" else export_command(args)
    from codd_lightning.cli.generate import generate_command

    return generate_command(args)


if __name__ == "__main__":
    sys.exit(main())
