"""Problems with answers: where examples come from, and how responses to them are graded."""

from codd_lightning.tasks.answers import Answers
from codd_lightning.tasks.base import SPLITS, Example, Grade, Task, last_number
from codd_lightning.tasks.files import FileTask
from codd_lightning.tasks.lists import ListTask
from codd_lightning.tasks.parallelbench import ParallelBenchTask
from codd_lightning.tasks.reasoning_gym import ReasoningGymTask
from codd_lightning.tasks.worded_sums import WordedSums

__all__ = [
    "SPLITS",
    "Answers",
    "Example",
    "FileTask",
    "Grade",
    "ListTask",
    "ParallelBenchTask",
    "ReasoningGymTask",
    "Task",
    "WordedSums",
    "last_number",
]
