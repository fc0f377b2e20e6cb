"""`codd lm-eval`: lm-eval's own command line, with this project's model and the paper's protocols known to it."""

import argparse
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from codd_lightning.errors import UserError

PROTOCOLS = Path(__file__).parents[1] / "evaluation" / "protocols"
MODEL = "codd_lightning.evaluation.lm_eval:CoddLM"


def lm_eval_command(args: argparse.Namespace) -> int:
    """Hands the arguments to lm-eval; its help, errors and exit statuses are its own.

    Raises:
        UserError: lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("codd lm-eval needs lm-eval: pip install 'codd-lightning[lm-eval]'")
    from codd_lightning.cli.processes import Processes

    Processes.of_environment().connect()
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    from codd_lightning.circuits.errors import CircuitError

    if "codd" not in model_registry:
        model_registry.register("codd", target=MODEL)
    sys.argv = ["lm-eval", *with_protocol(args.arguments)]
    try:
        cli_evaluate()
    except (UserError, CircuitError):
        raise
    except ValueError as error:
        if "Tasks not found" not in str(error):
            traceback.print_exc()
            return 1
        raise UserError(f"{' '.join(str(error).split())[:200]} (codd lm-eval ls tasks lists them)") from None
    except Exception:  # lm-eval's own: said as lm-eval says it
        traceback.print_exc()
        return 1
    return 0


def with_protocol(arguments: Sequence[str]) -> list[str]:
    """The arguments with a protocol's name after `--config` as its file, and the folder of its tasks."""
    found = list(arguments)
    for place, argument in enumerate(found):
        option, _, joined = argument.partition("=")
        if option not in ("--config", "-C"):
            continue
        name = joined or "".join(found[place + 1 : place + 2])
        file = PROTOCOLS / f"{name}.yaml"
        if Path(name).exists() or not file.is_file():
            return found
        found[place : place + (1 if joined else 2)] = [option, str(file)]
        if not any(argument.partition("=")[0] == "--include_path" for argument in found):
            found += ["--include_path", str(PROTOCOLS / "tasks")]
        return found
    return found
