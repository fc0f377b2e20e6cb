"""`codd demo`: a page that shows what a circuit does, step by step."""

import argparse
import importlib.util
import socket
from pathlib import Path

from codd_lightning.errors import UserError

QUICKSTART = Path("outputs") / "quickstart"


def demo_command(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C.

    Raises:
        UserError: gradio is not installed, an option is wrong, or there is no circuit.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("codd demo needs gradio: pip install 'codd-lightning[demo]'")
    if args.port is not None and not 1 <= args.port <= 65535:
        raise UserError(f"--port {args.port} must lie in [1, 65535]")
    _require_address(args.host, args.port)
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed} must lie in [0, 2^63)")
    source = args.circuit if args.circuit is not None else str(newest_circuit(QUICKSTART))
    if args.circuit is None:
        print(f"codd demo: no --circuit was given; taking the newest, {source}")
    from codd_lightning.backbones import load_backbone
    from codd_lightning.cli.circuit_files import circuit_of
    from codd_lightning.cli.console import quiet_libraries
    from codd_lightning.demo.session import Session

    quiet_libraries()
    session = Session(load_backbone(args.backbone), circuit_of(source), args.seed)
    from codd_lightning.demo.page import build_page, launch

    launch(build_page(session, f"Backbone `{args.backbone}`, circuit `{source}`"), args.host, args.port)
    return 0


def newest_circuit(runs: Path) -> Path:
    """The circuit last written by a run below a folder.

    Raises:
        UserError: there is none.
    """
    found = sorted(runs.glob("*/circuit/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"there is no circuit in {runs}: train one with codd train quickstart, or give --circuit")
    return found[-1].parent


def _require_address(host: str, port: int | None) -> None:
    """Asks for the address before anything is loaded: Gradio would try a host that is not ours again and again."""
    where = host if port is None else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page that has just ended is not in the way
            asked.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the page cannot be served at {where} ({reason}): choose another --host or --port") from None
