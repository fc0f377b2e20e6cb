"""Where a run computes: its devices and ranks, and whether strategy, optimizer and machine go together.

Asked before any process is started, of the configuration alone.
"""

import importlib.util
import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from codd_lightning.cli.compose import callbacks_of
from codd_lightning.cli.slurm import in_job
from codd_lightning.configs.schema.training import DDP, EM, DeepSpeedZero, Muon
from codd_lightning.errors import UserError

ACCELERATORS = ("cpu", "gpu", "auto")
MOST_PER_CORE = 8  # processes: a slip of the keyboard is not to start thousands


def world_size(config: DictConfig) -> int:
    """How many ranks there are."""
    return int(config.trainer.devices * config.trainer.num_nodes)


def accelerator_of(config: DictConfig) -> str:
    """ "cpu" or "gpu"; auto is the latter where there is one."""
    if config.trainer.accelerator != "auto":
        return str(config.trainer.accelerator)
    return "gpu" if _gpus() else "cpu"


def launched_outside() -> bool:
    """Whether srun or torchrun starts the ranks, each with this same command."""
    return "TORCHELASTIC_RUN_ID" in os.environ or launched_by_srun()


def launched_by_srun() -> bool:
    """Whether srun starts several ranks, each with this same command."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def require_lasting_folder(config: DictConfig) -> None:
    """Refuses a folder named by the clock where the run would not find it again.

    Raises:
        UserError: names the option and the mend.
    """
    if config.output_dir is None and in_job():
        name = f"outputs/{config.experiment_name}/$SLURM_JOB_ID"
        raise UserError(f"output_dir is needed in a SLURM job, which looks there when it goes on: output_dir={name}")


def require_world(config: DictConfig) -> None:
    """Refuses what the ranks could only fail of later.

    Raises:
        UserError: names the option, its value and the mend.
    """
    trainer = config.trainer
    require_devices(config)
    if config.data.batch_size % world_size(config):
        nodes = f" × trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
        raise UserError(
            f"data.batch_size={config.data.batch_size} is the global batch and does not divide by "
            f"trainer.devices={trainer.devices}{nodes}"
        )
    if trainer.num_nodes > 1 and not launched_outside():
        raise UserError(f"trainer.num_nodes={trainer.num_nodes} needs srun or torchrun to start a rank on every device")
    _require_strategy(config)


def require_devices(config: DictConfig) -> None:
    """Refuses more processes than there are GPUs, all that a measurement asks of the machine; CPUs can be shared.

    Raises:
        UserError: names the option, its value and the mend.
    """
    accelerator, devices = config.trainer.accelerator, config.trainer.devices
    if accelerator not in ACCELERATORS:
        raise UserError(f"trainer.accelerator={accelerator} is not one of {', '.join(ACCELERATORS)}")
    if accelerator_of(config) == "cpu":
        cores = os.cpu_count() or 1
        if devices > MOST_PER_CORE * cores:
            raise UserError(
                f"trainer.devices={devices} is more than {MOST_PER_CORE} processes for each of the {cores} cores here"
            )
        return
    gpus = _gpus()
    if gpus == 0:
        raise UserError("trainer.accelerator=gpu: torch sees no GPU here; use trainer.accelerator=cpu")
    if devices > gpus:
        raise UserError(f"trainer.devices={devices} is more than the {gpus} GPUs that torch sees here")


def _require_strategy(config: DictConfig) -> None:
    strategy = config.trainer.strategy
    kind = OmegaConf.get_type(strategy)
    name = Path(str(strategy._target_)).suffix[1:]
    if kind is DDP:
        return
    if kind is DeepSpeedZero:
        if importlib.util.find_spec("deepspeed") is None:
            raise UserError("this strategy needs DeepSpeed: pip install 'codd-lightning[deepspeed]'")
        name = f"{name} of stage {strategy.stage}"
        if strategy.offload_parameters and strategy.stage < 3:
            raise UserError(f"trainer.strategy.offload_parameters=true needs stage 3, not {strategy.stage}")
        if config.circuit._target_ is not None and config.trainer.precision != "32-true":
            raise UserError(
                f"trainer.precision={config.trainer.precision}: DeepSpeed would round the circuit's tables; "
                "use trainer.precision=32-true, and backbone.dtype=bfloat16 for a frozen backbone"
            )
    rule = OmegaConf.get_type(config.optimizer)
    if isinstance(rule, type) and issubclass(rule, EM | Muon):
        chosen = Path(str(config.optimizer._target_)).suffix[1:]
        raise UserError(f"{name} splits tables among ranks, and {chosen} needs them whole: use trainer=ddp, or adamw")
    if name.startswith("FSDP2") or strategy.stage == 3:
        for callback, options in callbacks_of(config):
            if "decoders" in options:
                raise UserError(
                    f"callbacks.{callback} decodes on one rank, and no rank of {name} has all weights: callbacks=none"
                )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
