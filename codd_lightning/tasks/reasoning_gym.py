"""Any dataset of reasoning-gym as a task."""

from typing import Any

from codd_lightning.errors import UserError
from codd_lightning.tasks.base import SPLITS, Example, Grade, last_number

# reasoning-gym seeds item i of a dataset with (seed + i): splits start this far apart, so they never meet.
SPLIT_STRIDE = 10_000_000


class ReasoningGymTask:
    """Examples and graders of one reasoning-gym dataset; splits come from disjoint seeds.

    The response is the worked solution where the dataset has one (`answer_cot`), else the answer.

    Args:
        dataset: its name, such as "gsm_symbolic".
        options: its own options.

    Raises:
        UserError: reasoning-gym has no such dataset, or does not take these options.
    """

    def __init__(self, dataset: str, options: dict[str, Any] | None = None) -> None:
        self.dataset = dataset
        self.options = dict(options or {})
        self._sources: dict[tuple[str, int], Any] = {}
        self._source(SPLITS[0], 0)

    def size(self, split: str) -> None:
        return None

    def example(self, split: str, index: int, seed: int) -> Example:
        entry = self._source(split, seed)[index]
        response = entry["metadata"].get("answer_cot") or str(entry["answer"])
        return Example(entry["question"], response, entry)

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        """Strict: the answer after `####` (else the whole response) gets the dataset's full score, and EOS."""
        entry = example.problem
        answer = response.rsplit("####", 1)[-1].strip()
        if "####" in example.response and "####" not in response:
            answer = ""
        score = float(self._scorer.score_answer(answer, entry)) if answer else 0.0
        expected = last_number(str(entry["answer"]))
        said = str(entry["answer"]).strip() in response
        flexible = said if expected is None else last_number(response) == expected
        return Grade(strict=ended and score == 1.0, flexible=flexible)

    @property
    def _scorer(self) -> Any:
        return self._source(SPLITS[0], 0)

    def _source(self, split: str, seed: int) -> Any:
        if (split, seed) not in self._sources:
            import reasoning_gym  # not before it is needed: it loads every dataset

            first = (seed * len(SPLITS) + SPLITS.index(split)) * SPLIT_STRIDE
            try:
                source = reasoning_gym.create_dataset(self.dataset, seed=first, size=SPLIT_STRIDE, **self.options)
            except (ValueError, TypeError, AssertionError) as error:
                raise UserError(f"reasoning-gym dataset {self.dataset} with options {self.options}: {error}") from None
            self._sources[split, seed] = source
        return self._sources[split, seed]
