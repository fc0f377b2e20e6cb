"""Stored evidence against the evidence that a backbone gives."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from whole_data import data_of

from codd_lightning.backbones import new_backbone
from codd_lightning.circuits import Context, Evidence, Reads
from codd_lightning.data import Blocks, CachedDataModule, CacheFolder, RowFormat, TaskDataModule
from codd_lightning.diffusion import NoiseLevel
from codd_lightning.errors import UserError
from codd_lightning.modules import Noise, scored_blocks, write_evidence

LENGTH, VOCABULARY, BATCH, EPOCHS = 3, 24, 4, 2


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


def rows(count: int) -> list[tuple[str, str]]:
    return [(text(*[i % 20] * (1 + i % 3)), text(*[(i + j) % 20 for j in range(1 + i % 5)])) for i in range(count)]


def backbone_of() -> Any:
    return (
        new_backbone(
            [text(*range(20))],
            tokenizer="words",
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            max_positions=64,
            rope_theta=100.0,
            weight_spread=0.3,
            attention="eager",
            seed=0,
        )
        .eval()
        .requires_grad_(False)
    )


Setup = tuple[Any, TaskDataModule, Noise]


@pytest.fixture
def setup(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> Setup:
    """A backbone, 18 and 5 examples (so that last batches are not full), and their noise."""
    task = listed_task(train=rows(18), validation=rows(5))
    data = data_of(task, words, LENGTH, 6, BATCH, max_prompt_tokens=6, response_padding="block", seed=3)
    return backbone_of(), data, Noise("mixed", LENGTH, 0.2, 3)


def folder_at(path: Path, shard_batches: int = 2) -> CacheFolder:
    return CacheFolder(
        path=path,
        settings={"seed": 3},
        writing={"data.batch_size": BATCH, "cache.shard_batches": shard_batches},
        examples={"train": 18, "validation": 5},
        epochs={"train": EPOCHS, "validation": 1},
        backbone="0",
    )


def written(setup: Setup, path: Path, **options: Any) -> CacheFolder:
    folder = folder_at(path, options.pop("shard_batches", 2))
    folder.start()
    write_evidence(folder, *setup, **{"top_k": None, "dtype": "float32", **options})
    folder.finish()
    return folder


def on_the_fly(setup: Setup, top_k: int | None, epoch: int, batch_size: int = BATCH) -> Iterator[Blocks]:
    """What training without a cache would see."""
    backbone, data, noise = setup
    data.batch_size = batch_size
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]  # GlobalBatches has one
    for batch in loader:
        noised = noise(batch, backbone.mask_token_id, epoch, "training noise")
        yield scored_blocks(backbone, batch, noised, LENGTH, top_k, Reads.EVERYTHING_BEFORE)


def from_cache(folder: CacheFolder, epoch: int, batch_size: int = BATCH, **options: Any) -> Iterator[Blocks]:
    loader = CachedDataModule(folder, batch_size, **options).train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    yield from loader


def tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            found |= tensors(inner, f"{prefix}{field.name}.")
        elif isinstance(inner, Tensor):
            found[f"{prefix}{field.name}"] = inner
    return found


def with_lists(blocks: Blocks) -> Blocks:
    """What lies before the blocks without its padding, one block after another; and how much of each."""
    context = blocks.evidence.context
    assert context is not None
    assert context.before is not None
    assert context.present is not None
    bare = Context(context.hidden, context.before[context.present], context.present.sum(-1))
    return dataclasses.replace(blocks, evidence=dataclasses.replace(blocks.evidence, context=bare))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("top_k", [None, 1, 6])
def test_batches_from_the_cache_are_those_of_training_on_the_fly(
    top_k: int | None, workers: int, setup: Setup, tmp_path: Path
) -> None:
    folder = written(setup, tmp_path / "cache", top_k=top_k, hidden="bfloat16", before=True)
    for epoch in range(EPOCHS):
        pairs = list(zip(on_the_fly(setup, top_k, epoch), from_cache(folder, epoch, num_workers=workers), strict=True))
        assert len(pairs) == 18 // BATCH
        for fresh, stored in pairs:
            assert stored.examples == fresh.examples == BATCH
            here, there = tensors(with_lists(fresh)), tensors(with_lists(stored))
            assert here.keys() == there.keys()
            for name, value in here.items():
                if name in ("evidence.context.hidden", "evidence.context.before"):
                    assert torch.equal(value.bfloat16(), there[name])
                elif value.is_floating_point():
                    torch.testing.assert_close(there[name], value, rtol=1e-5, atol=1e-30)
                else:
                    assert torch.equal(there[name], value), name


def test_epochs_differ_in_noise_and_order(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    first, second = ([blocks.tokens.tolist() for blocks in from_cache(folder, epoch)] for epoch in range(2))
    assert first != second


def test_noise_is_gone_through_again_as_often_as_asked(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")

    def noise(epoch: int, epochs: int) -> list[list[float]]:
        return [blocks.noise.t.tolist() for blocks in from_cache(folder, epoch, epochs=epochs)]

    assert noise(2, 2) == noise(0, 2) == noise(1, 1)
    assert noise(3, 2) == noise(1, 2) != noise(0, 2)


@pytest.mark.parametrize("batch_size", [3, 6, 18])
def test_another_batch_size_takes_the_same_examples(batch_size: int, setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    for fresh, stored in zip(on_the_fly(setup, None, 1, batch_size), from_cache(folder, 1, batch_size), strict=True):
        assert torch.equal(stored.tokens, fresh.tokens)
        assert torch.equal(stored.row, fresh.row)
        torch.testing.assert_close(stored.evidence.weights, fresh.evidence.weights, rtol=1e-4, atol=1e-6)


def test_ranks_share_the_batches_of_a_single_process(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache", top_k=4)

    class Rank:
        world_size = 2
        training = False

        def __init__(self, number: int) -> None:
            self.global_rank = number

    shares = []
    for number in range(2):
        data = CachedDataModule(folder, BATCH)
        data.trainer = Rank(number)  # type: ignore[assignment]  # all that a loader asks of a trainer
        shares.append(list(data.train_dataloader()))
    for alone, *parts in zip(from_cache(folder, 0), *shares, strict=True):
        for number, part in enumerate(parts):
            mine = alone.row % 2 == number
            assert part.examples == BATCH // 2
            assert torch.equal(part.row, alone.row[mine] // 2)
            assert torch.equal(part.tokens, alone.tokens[mine])
            assert torch.equal(part.evidence.weights, alone.evidence.weights[mine])


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-6), ("float16", 1e-2), ("bfloat16", 8e-2)])
def test_log_probabilities_are_kept_to_the_precision_of_their_type(
    dtype: str, most: float, setup: Setup, tmp_path: Path
) -> None:
    folder = written(setup, tmp_path / "cache", dtype=dtype)
    errors = []
    for fresh, stored in zip(on_the_fly(setup, None, 0), from_cache(folder, 0), strict=True):
        difference = stored.evidence.log_weight(stored.tokens) - fresh.evidence.log_weight(fresh.tokens)
        errors.append(float(difference.abs().max()))
    assert 0 < max(errors) < most or dtype == "float32"
    assert max(errors) < most


@given(
    logits=st.lists(st.sampled_from([0.0, 3.0, -40.0, -300.0, -torch.inf]), min_size=4, max_size=4),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    top_k=st.sampled_from([None, 1, 2]),
)
def test_only_what_was_impossible_is_impossible(logits: list[float], dtype: str, top_k: int | None) -> None:
    scores = torch.tensor([[[1.0, *logits]]])
    tokens = torch.tensor([[0]])
    evidence = Evidence.from_logits(scores, torch.tensor([[9]]), 9, top_k=top_k, keep=tokens)
    one = torch.ones(1)
    masked = torch.ones(1, 1, dtype=torch.bool)
    level = NoiseLevel(one, one.long(), one.long())
    blocks = Blocks(tokens, masked, masked, evidence, torch.zeros(1, dtype=torch.long), level, 1)
    form = RowFormat.of(blocks, 9, dtype, None)
    table = pa.Table.from_batches([form.rows(blocks, 0, [0], torch.zeros(1, dtype=torch.long))])
    again = RowFormat.of_schema(table.schema).blocks(table, blocks.row.numpy(), 1).evidence
    assert torch.equal(again.dense_weights() > 0, evidence.dense_weights() > 0)
    torch.testing.assert_close(again.weights, evidence.weights, rtol=0.5, atol=1e-6)


def test_any_reader_of_arrow_reads_a_shard(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache", top_k=4, dtype="float16")
    shard = datasets.Dataset.from_file(str(folder.path / folder.shards[0].name))
    blocks = next(from_cache(folder, 0))
    assert shard.num_rows == folder.index()[folder.shards[0].name]["rows"]
    assert shard[0]["tokens"] == blocks.tokens[0].tolist()
    assert set(shard[:]["epoch"]) == {0}
    assert len(shard[0]["log_probs"]) == sum(shard[0]["masked"]) * 5  # the mask token is kept as well, with weight 0


def files(folder: CacheFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.path.iterdir()}


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_writes_the_same_files(world_size: int, setup: Setup, tmp_path: Path) -> None:
    alone = written(setup, tmp_path / "alone", top_k=4)
    together = folder_at(tmp_path / "together")
    for rank in reversed(range(world_size)):
        assert not together.finish() or rank == world_size
        together.start()
        write_evidence(together, *setup, top_k=4, dtype="float32", rank=rank, world_size=world_size)
    assert together.finish()
    assert files(together) == files(alone)


def test_a_writer_that_is_killed_goes_on_with_the_shard_it_left(setup: Setup, tmp_path: Path) -> None:
    whole = written(setup, tmp_path / "whole", top_k=4)
    folder = folder_at(tmp_path / "cache")
    folder.start()
    seen: list[int] = []

    class Killed(BaseException):
        pass

    def progress(examples: int) -> None:
        seen.append(examples)
        if len(seen) == 4:  # the second of the second shard's batches is written, the shard is not in its place
            os.link(next(folder.path.glob(".*.partial")), folder.path / ".left.partial")  # as kill -9 leaves it
            raise Killed

    with pytest.raises(Killed):
        write_evidence(folder, *setup, top_k=4, dtype="float32", progress=progress)
    assert [folder.holds(shard) for shard in folder.shards[:2]] == [True, False]
    assert not folder.finish()
    with pytest.raises(UserError, match=r"unfinished \(1 of 7 shards\)"):
        CachedDataModule(folder, BATCH)
    kept = (folder.path / folder.shards[0].name).stat().st_ino
    again: list[int] = []
    folder.start()
    write_evidence(folder, *setup, top_k=4, dtype="float32", progress=again.append)
    assert sum(again) == 18 * EPOCHS + 5 - 2 * BATCH
    assert folder.finish()
    assert (folder.path / folder.shards[0].name).stat().st_ino == kept
    assert files(folder) == files(whole)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_at(tmp_path / "cache")
    folder.start()
    real, calls = os.fsync, []

    def fsync(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"train-00001-of-00006\.arrow.*No space left"):
        write_evidence(folder, *setup, top_k=4, dtype="float32")
    assert sorted(files(folder)) == ["settings.json", folder.shards[0].name]


def flip(file: Path) -> None:
    """Changes one bit of a number in the middle of a shard: its length and form stay."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["missing", "short", "fewer batches", "foreign", "one bit"])
def test_a_damaged_shard_is_named(damage: str, setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    shard = folder.path / folder.shards[3].name
    size = shard.stat().st_size
    if damage == "missing":
        shard.unlink()
    elif damage == "short":
        os.truncate(shard, size // 2)
    elif damage == "fewer batches":
        with pa.ipc.open_stream(shard.read_bytes()) as stream:
            first = stream.read_next_batch()
        with pa.ipc.new_stream(shard, first.schema) as writer:
            writer.write_batch(first)
    elif damage == "one bit":
        flip(shard)
    else:
        shard.write_bytes(b"\0" * size)
    with pytest.raises(UserError, match=f"{shard.name}.*codd cache") as refusal:
        CachedDataModule(folder, BATCH)
    assert "\n" not in str(refusal.value)


def test_a_missing_shard_is_written_again(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    before = files(folder)
    (folder.path / folder.shards[3].name).unlink()
    write_evidence(folder, *setup, top_k=None, dtype="float32")
    assert folder.finish()
    assert files(folder) == before


@pytest.mark.parametrize(
    ("damage", "finished"),
    [
        ("cut in a batch", True),
        ("cut behind a batch", True),
        ("one bit", True),  # what the bits were is known when all shards are there
        ("cut in a batch", False),
        ("cut behind a batch", False),
    ],
)
def test_a_damaged_shard_is_written_again(damage: str, finished: bool, setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    before = files(folder)
    shard = folder.path / folder.shards[3].name
    if not finished:
        (folder.path / "index.json").unlink()
    if damage == "one bit":
        flip(shard)
    elif damage == "cut in a batch":
        os.truncate(shard, shard.stat().st_size // 2)
    else:
        with pa.ipc.open_stream(shard.read_bytes()) as stream:
            first = stream.read_next_batch()
        with pa.ipc.new_stream(shard, first.schema) as writer:
            writer.write_batch(first)
    kept = (folder.path / folder.shards[0].name).stat().st_ino
    folder.start()
    assert not folder.finish()
    write_evidence(folder, *setup, top_k=None, dtype="float32")
    assert folder.finish()
    assert files(folder) == before
    assert (folder.path / folder.shards[0].name).stat().st_ino == kept


def test_an_index_without_sums_is_written_again(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    before = files(folder)
    index = {"shards": {name: {"rows": 1, "bytes": 1} for name in folder.index()}}
    (folder.path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json does not give rows, bytes and crc32.*codd cache"):
        CachedDataModule(folder, BATCH)
    folder.start()
    assert folder.finish()
    assert files(folder) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("writing", {}),
        ("writing", {"data.batch_size": 0, "cache.shard_batches": 2}),
        ("writing", {"data.batch_size": "4", "cache.shard_batches": 2}),
        ("settings", []),
        ("settings", {}),
        ("examples", 3),
        ("examples", {"train": 18}),
        ("examples", {"train": -18, "validation": 5}),
        ("epochs", {"train": True, "validation": 1}),
        ("epochs", None),
        ("backbone", 7),
    ],
)
def test_damaged_settings_are_refused_by_name(name: str, value: object, setup: Setup, tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "cache")
    folder.start()
    place = folder.path / "settings.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), name: value}))
    for act in (lambda: CacheFolder.open(folder.path), folder.start):
        with pytest.raises(UserError) as refusal:
            act()
        assert f"{place} is damaged: {name} is {json.dumps(value)} and not " in str(refusal.value)
        assert "codd cache" in str(refusal.value)


def test_what_is_no_cache_is_refused(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evidence cache"):
        CacheFolder.open(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no evidence cache"):
        folder_at(tmp_path).start()
    (tmp_path / "settings.json").write_text('{"version": 1, "what": 2}')
    with pytest.raises(UserError, match=r"settings\.json"):
        CacheFolder.open(tmp_path)
    folder = written(setup, tmp_path / "cache")
    with pytest.raises(UserError, match="no test split; it has train, validation"):
        folder.read("test")


def test_a_cache_cut_otherwise_is_not_continued(setup: Setup, tmp_path: Path) -> None:
    written(setup, tmp_path / "cache")
    with pytest.raises(
        UserError, match=r"cache\.shard_batches is 5 here and 2 in the cache: add cache\.shard_batches=2"
    ):
        folder_at(tmp_path / "cache", shard_batches=5).start()


def test_a_folder_reads_as_it_was_started(setup: Setup, tmp_path: Path) -> None:
    folder = written(setup, tmp_path / "cache")
    assert CacheFolder.open(folder.path) == folder


def test_hidden_states_of_a_backbone_without_any_are_refused(
    setup: Setup, tmp_path: Path, fixed_logits: Callable[..., Any]
) -> None:
    backbone = fixed_logits(torch.zeros(VOCABULARY), setup[0].mask_token_id, [1])
    with pytest.raises(UserError, match="hidden states"):
        written((backbone, *setup[1:]), tmp_path / "cache", hidden="float16")
