"""Batches on several ranks against the batches of a single process."""

import itertools

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from codd_lightning.data.data_module import EpochLoader
from codd_lightning.data.sampler import EpochOrder, GlobalBatches


def batches(
    size: int, batch_size: int, rank: int, world_size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True
) -> list[list[int]]:
    order = EpochOrder(size, seed, shuffle)
    order.set_epoch(epoch)
    sampler = GlobalBatches(order, batch_size, rank, world_size, drop_last=shuffle)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@given(
    size=st.integers(1, 60),
    world_size=st.integers(1, 4),
    share=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_ranks_together_have_the_batches_of_a_single_process(
    size: int, world_size: int, share: int, epoch: int, shuffle: bool
) -> None:
    batch_size = share * world_size
    alone = batches(size, batch_size, 0, 1, epoch=epoch, shuffle=shuffle)
    ranks = [batches(size, batch_size, r, world_size, epoch=epoch, shuffle=shuffle) for r in range(world_size)]
    together = [list(itertools.chain(*parts)) for parts in itertools.zip_longest(*ranks, fillvalue=[])]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in alone]
    assert all(len(batch) == len(set(batch)) for batch in together)
    if shuffle:  # a step of training has the same work on every rank
        assert all(len(part) == share for rank in ranks for part in rank)


@given(size=st.integers(1, 60), batch_size=st.integers(1, 20))
def test_evaluation_sees_every_example_once_in_order_and_training_whole_batches_of_distinct_ones(
    size: int, batch_size: int
) -> None:
    assert list(itertools.chain(*batches(size, batch_size, 0, 1, shuffle=False))) == list(range(size))
    training = batches(size, batch_size, 0, 1)
    assert len(training) == size // batch_size
    seen = list(itertools.chain(*training))
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(size))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(itertools.chain(*batches(40, 4, 0, 1, seed=seed, epoch=epoch)))

    orders = {(seed, epoch): order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert all(order(*key) == value for key, value in orders.items())


def test_order_without_shuffling_never_changes() -> None:
    assert batches(10, 3, 0, 1, epoch=0, shuffle=False) == batches(10, 3, 0, 1, epoch=5, shuffle=False)


class Watching(L.LightningModule):
    """Notes the examples of every step."""

    def __init__(self, loader: DataLoader[int]) -> None:
        super().__init__()
        self.loader = loader
        self.epochs: dict[int, list[int]] = {}
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def train_dataloader(self) -> DataLoader[int]:
        return self.loader

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.epochs.setdefault(self.current_epoch, []).extend(batch.tolist())
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_trainer_gives_every_epoch_an_order_of_its_own() -> None:
    sampler = GlobalBatches(EpochOrder(20, 3, shuffle=True), 5, 0, 1, drop_last=True)
    module = Watching(DataLoader(range(20), batch_sampler=sampler))  # type: ignore[arg-type]  # a range is a data set
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module)
    expected = {epoch: list(itertools.chain(*batches(20, 5, 0, 1, seed=3, epoch=epoch))) for epoch in range(3)}
    assert module.epochs == expected


def test_an_opening_is_of_all_ranks_and_of_what_has_been_taken_too() -> None:
    order = EpochOrder(20, 3, shuffle=True)
    order.set_epoch(2)
    found = []
    for rank in range(2):
        sampler = GlobalBatches(order, 4, rank, 2, drop_last=True, done=lambda: 3)
        loader = EpochLoader(range(20), 0, batch_sampler=sampler, collate_fn=list)  # type: ignore[arg-type]  # as above
        found.append(list(loader.opening()))
    assert found[0] == found[1] == batches(20, 4, 0, 1, seed=3, epoch=2)
