"""Entry point of `codd`: parses, dispatches, and turns errors into one line and an exit status.

Nothing heavy is imported before the command line is known to be right.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from codd_lightning.cli.arguments import EXPERIMENT_COMMANDS, build_parser, experiment_arguments, quoted
from codd_lightning.cli.failure import report_error
from codd_lightning.cli.slurm import Preempted, in_job, leave, notice

# Where each command is; none of them is imported before it is asked for.
MODULES = {
    "train": "train",
    "cache": "cache",
    "evaluate": "evaluate",
    "tune": "tune",
    "generate": "generate",
    "report": "report",
    "import": "circuit_files",
    "export": "circuit_files",
    "demo": "demo",
    "lm-eval": "lm_eval",
    "help": "help",  # of a command on an experiment
}
# What goes on where it was stopped, so that a job of it may be queued again.
RESUMABLE = ("train", "cache", "evaluate")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, 1 (our fault), 2 (mend the input), 75 (its job of SLURM
    is queued again), 130 (Ctrl-C).
    """
    # Threads that wait in a busy loop: one other busy process on the machine makes everything ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in EXPERIMENT_COMMANDS:
        command = arguments[0]
        args = experiment_arguments(command).parse_intermixed_args(arguments[1:], argparse.Namespace(command=command))
        args.overrides = [quoted(override) for override in args.overrides]
    elif arguments and arguments[0] == "lm-eval":  # all that follows is lm-eval's, its --help too
        args = argparse.Namespace(command="lm-eval", arguments=arguments[1:])
    else:
        args = build_parser().parse_args(arguments)
    try:
        if args.command in RESUMABLE and in_job():
            notice.listen()
        return _dispatch(args)
    except Preempted as reason:
        return leave(reason)
    except BrokenPipeError:  # whoever reads our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # so that closing it says nothing more
        return 0
    except (KeyboardInterrupt, Exception) as error:
        return report_error(error)


def _dispatch(args: argparse.Namespace) -> int:
    """Imports the command that was asked for, and runs it."""
    command = "help" if getattr(args, "help", False) else args.command
    module = importlib.import_module(f"codd_lightning.cli.{MODULES[command]}")
    status: int = getattr(module, f"{command.replace('-', '_')}_command")(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
