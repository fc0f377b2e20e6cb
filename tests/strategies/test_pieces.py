"""A backbone that is read in pieces: what each of four ranks gets, which pretend to be connected."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from codd_lightning.backbones import StoredTensor, load_backbone
from codd_lightning.circuits import SegmentedHMM
from codd_lightning.cli.build import build, comes_in_pieces
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.strategies import DeepSpeedZero, fully_sharded
from codd_lightning.strategies.fully_sharded import FullyShardedStrategy, layers_of
from codd_lightning.strategies.pieces import fill, local_rows

CPU = torch.device("cpu")
RANKS = 4


@contextmanager
def as_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as one of four, whose others send nothing: they read the same files."""
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    dist.init_process_group("fake", rank=rank, world_size=RANKS, store=FakeStore())  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return {name: value.detach() for name, value in load_backbone("codd_tiny", dtype="bfloat16").named_parameters()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each call took from the files."""
    counts: list[int] = []
    read = StoredTensor.read

    def counting(stored: StoredTensor, *arguments: Any) -> Tensor:
        tensor = read(stored, *arguments)
        counts.append(tensor.numel())
        return tensor

    monkeypatch.setattr(StoredTensor, "read", counting)
    return counts


def share(count: int) -> int:
    return -(-count // RANKS)


def test_fully_sharded_ranks_read_their_rows_and_no_others(
    whole: dict[str, Tensor], reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[dict[str, Tensor]] = []
    for rank in range(RANKS):
        reads.clear()
        with as_rank(rank, monkeypatch):
            backbone = load_backbone("codd_tiny", dtype="bfloat16", device="meta")
            mesh = init_device_mesh("cpu", (RANKS,))
            for part in (*layers_of(backbone), backbone):
                fully_shard(part, mesh=mesh)
            fill(backbone, partial(local_rows, device=CPU))
            pieces.append({name: value.to_local() for name, value in backbone.named_parameters()})  # type: ignore[attr-defined]  # DTensors
        assert max(reads) <= max(share(len(value)) * value[0].numel() for value in whole.values())
        assert sum(reads) <= sum(share(len(value)) * value[0].numel() for value in whole.values())
        assert backbone.model.get_output_embeddings().weight is backbone.model.get_input_embeddings().weight
    for name, value in whole.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), value), name


@pytest.mark.parametrize("cached", [False, True])
def test_layers_are_apart_that_every_step_goes_through(cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a backbone; an adapter's wait in static cycles, where their weights must be at hand all the same."""
    parts: list[nn.Module] = []
    monkeypatch.setattr(fully_sharded, "fully_shard", lambda part, mesh: parts.append(part))
    circuit = SegmentedHMM(4, 5, 3, 6, 2, stop_states=1, adapter_layers=3)
    module = L.LightningModule()
    module.backbone, module.circuit = None if cached else load_backbone("codd_tiny"), circuit
    strategy = FullyShardedStrategy("gloo")
    strategy._lightning_module, strategy._device_mesh = module, {"data_parallel": None}  # type: ignore[assignment]
    strategy._shard()
    assert parts == [*([] if cached else layers_of(module.backbone)), module]


def test_zero_splits_each_tensor_before_it_reads_the_next(
    whole: dict[str, Tensor], reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from codd_lightning.strategies.zero import Partition, use_cpu

    use_cpu()
    import deepspeed

    pieces: list[dict[str, Tensor]] = []
    for rank in range(RANKS):
        reads.clear()
        with as_rank(rank, monkeypatch):
            monkeypatch.setattr("deepspeed.comm.comm.cdb", None)  # of the rank before
            deepspeed.init_distributed(dist_backend="gloo", verbose=False)
            backbone = load_backbone("codd_tiny", dtype="bfloat16", device="meta")
            partition = Partition(DeepSpeedZero(stage=3, persistent_elements=0).config("cpu"), CPU)

            def watched(stored: StoredTensor, parameter: nn.Parameter, partition: Partition = partition) -> Any:
                already = len(reads)
                filled: Any = partition(stored, parameter)
                assert len(reads) == already + 1
                assert filled.untyped_storage().nbytes() <= 2  # a stand-in
                assert filled.ds_tensor.untyped_storage().nbytes() == 2 * share(reads[-1])
                return filled

            fill(backbone, watched)
            pieces.append({name: value.ds_tensor for name, value in backbone.named_parameters()})  # type: ignore[attr-defined]
        assert len(reads) == len(whole)
    for name, value in whole.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces])[: value.numel()], value.flatten()), name


@pytest.mark.parametrize("strategy", ["fsdp2", "deepspeed_zero3"])
@pytest.mark.parametrize(
    ("experiment", "overrides", "pieces"),
    [
        ("smoke", [], True),
        ("smoke", ["circuit=none", "objective=masked_diffusion", "evaluation.decoders=[]"], True),
        ("smoke", ["initialization.kind=hidden_states"], False),  # asked for the start, before there is a strategy
        ("tiny_backbone", ["backbone.tokenizer_examples=50"], False),  # made from scratch
    ],
)
def test_what_lies_in_files_is_left_to_the_strategy(
    strategy: str, experiment: str, overrides: list[str], pieces: bool
) -> None:
    config = compose_experiment(experiment, [f"trainer={strategy}", "callbacks=none", *overrides])
    backbone = build(config, in_pieces=comes_in_pieces(config)).backbone
    assert {value.is_meta for value in backbone.parameters()} == {pieces}
    assert not any(value.is_meta for value in backbone.buffers())


@pytest.mark.parametrize("strategy", ["cpu", "ddp", "deepspeed_zero2"])
def test_ranks_that_hold_everything_load_everything(strategy: str) -> None:
    assert not comes_in_pieces(compose_experiment("smoke", [f"trainer={strategy}"]))
