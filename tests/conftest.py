"""What tests share: one thread, deterministic examples, fixture checkpoints and backbones that only pretend."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from codd_lightning.backbones.tokenizers import train_tokenizer
from codd_lightning.circuits import HMM
from codd_lightning.tasks import Example, Grade

settings.register_profile("codd", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("codd")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in the background deaf to Ctrl-C, and so would be the commands that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    """Tests that draw from the default generator draw the same alone and after others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of the checkpoints in the original formats."""
    return Path(__file__).parent / "fixtures"


class FixedLogits(nn.Module):
    """A backbone without parameters: the same `(R, V)` logits at the last R columns, whatever the canvas.

    Logits `(V,)` stand at every column.

    It has only what the protocol asks for: four attributes and `forward`.
    """

    def __init__(self, logits: Tensor, mask_token_id: int, eos_token_ids: Sequence[int] = (), tokenizer: Any = None):
        super().__init__()
        self.logits = logits
        self.mask_token_id = mask_token_id
        self.vocab_size = logits.shape[-1]
        self.eos_token_ids = list(eos_token_ids)
        self.tokenizer = tokenizer
        self.rows_seen: list[int] = []  # of every pass

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        batch_size, width = input_ids.shape
        self.rows_seen.append(batch_size)
        if self.logits.dim() == 1:
            return self.logits.expand(batch_size, width, -1).clone()
        logits = torch.zeros(batch_size, width, self.vocab_size)
        logits[:, width - len(self.logits) :] = self.logits
        return logits


class KnownAnswers(nn.Module):
    """A backbone that is sure of the response to each prompt it knows: `{prompt ids: response ids}`."""

    def __init__(
        self,
        answers: dict[tuple[int, ...], list[int]],
        vocab_size: int,
        mask_token_id: int,
        eos_token_ids: Sequence[int],
        tokenizer: Any = None,
    ):
        super().__init__()
        self.answers = answers
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id
        self.eos_token_ids = list(eos_token_ids)
        self.tokenizer = tokenizer

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.zeros(*input_ids.shape, self.vocab_size)
        for row, ids in enumerate(input_ids):
            attended = ids if attention_mask is None else ids[attention_mask[row].bool()]
            begins = [known for known in self.answers if attended[: len(known)].tolist() == list(known)]
            prompt = max(begins, key=len)
            start = input_ids.shape[1] - len(attended) + len(prompt)
            for i, token in enumerate(self.answers[prompt][: input_ids.shape[1] - start]):
                logits[row, start + i, token] = 12.0 - 0.01 * i  # a little surer on the left
        return logits


@pytest.fixture
def fixed_logits() -> type[FixedLogits]:
    """The class of backbones that always say the same."""
    return FixedLogits


@pytest.fixture
def known_answers() -> type[KnownAnswers]:
    """The class of backbones that know some responses by heart."""
    return KnownAnswers


@pytest.fixture
def random_hmm() -> Callable[..., HMM]:
    """Makes frozen HMMs whose random parameters depend on a seed alone."""

    def make(num_states: int, vocab_size: int, block_length: int, seed: int = 0, homogeneous: bool = True) -> HMM:
        hmm = HMM(num_states, vocab_size, block_length, homogeneous)
        hmm.reset_parameters(torch.Generator().manual_seed(seed))
        return hmm.requires_grad_(False)

    return make


@pytest.fixture
def neutral_hmm() -> Callable[..., HMM]:
    """Makes HMMs whose emission rows are identical and flat: their coupling changes nothing."""

    def make(num_states: int, vocab_size: int, block_length: int) -> HMM:
        hmm = HMM(num_states, vocab_size, block_length)
        hmm.reset_parameters(torch.Generator().manual_seed(0))
        with torch.no_grad():
            hmm.emission_logits.zero_()
        return hmm

    return make


class ListedTask:
    """A finite task of given `(prompt, response)` texts; a response grades right if it is the given one."""

    def __init__(self, **splits: list[tuple[str, str]]):
        self.splits = splits

    def size(self, split: str) -> int:
        return len(self.splits[split])

    def example(self, split: str, index: int, seed: int) -> Example:
        return Example(*self.splits[split][index])

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        right = response == example.response
        return Grade(strict=right and ended, flexible=right)


@pytest.fixture
def listed_task() -> type[ListedTask]:
    """The class of tasks whose examples are given."""
    return ListedTask


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """A tokenizer over the words w0 to w19; every word is one token."""
    return train_tokenizer([" ".join(f"w{i}" for i in range(20))], "words", 64)
