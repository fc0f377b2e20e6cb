"""The model card of a trained circuit."""

from collections.abc import Sequence

from omegaconf import DictConfig

from codd_lightning.circuits import Circuit
from codd_lightning.evaluation import Row


def circuit_card(config: DictConfig, circuit: Circuit, rows: Sequence[Row]) -> str:
    """Markdown that says what a circuit is, what it was trained on, and what it measured."""
    gains = [row for row in rows if row["name"] == "cll_gain"]
    lines = [
        "---",
        "library_name: codd-lightning",
        "tags: [codd, probabilistic-circuit, masked-diffusion]",
        "---",
        f"# A circuit of {config.experiment_name}",
        "",
        f"Structure `{circuit.structure}`: "
        + circuit.summary()
        + f"; {sum(p.numel() for p in circuit.parameters()):,} parameters.",
        "",
        f"Trained on the evidence of backbone `{config.backbone.get('path_or_repo', 'made from scratch')}`, "
        f"seed {config.seed}.",
        "",
        "| masked share of the block | gain over the factorized prediction, nats per masked token (95 %) |",
        "|---|---|",
        *(
            f"| {row['mask_ratio'][0]:.2f} to {row['mask_ratio'][1]:.2f} | "
            f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f}), n={row['n']} |"
            for row in gains
        ),
        "",
        "```python",
        "from codd_lightning.circuits import load_circuit",
        'circuit = load_circuit("THIS_FOLDER")',
        "```",
        "",
    ]
    return "\n".join(lines)
