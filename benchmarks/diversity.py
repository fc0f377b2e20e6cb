"""Whether a decoder that is right says the same thing always: the wordings among the right answers of a run.

    python benchmarks/diversity.py RUN [RUN ...]

For every setting of a run on worded sums, of the answers that are right as a whole: how many sentences differ in more
than names, things and numbers, and their entropy in nats, beside the same of the solutions that the generator wrote for
the same problems. Intervals: basic bootstrap over problems, 95 %, of 1,000 resamplings. Entropies of few samples are
too small, for both alike; the interval corrects for as much as a resampling loses again.
"""

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

from codd_lightning.evaluation.rows import series_label
from codd_lightning.tasks.worded_sums import NAMES, OBJECTS, normalize

RESAMPLINGS = 1000


def wordings(text: str) -> list[str]:
    """The sentences of a solution without what belongs to its problem."""
    text = re.sub(rf"\b({'|'.join(NAMES)})\b", "NAME", normalize(text))
    text = re.sub(rf"\b({'|'.join(OBJECTS)})\b", "THINGS", text)
    return [sentence.strip() for sentence in re.sub(r"\d+", "#", text).split(".") if sentence.strip()]


def entropy(solutions: Sequence[list[str]]) -> float:
    counts = Counter(sentence for solution in solutions for sentence in solution)
    total = counts.total()
    return -sum(count / total * log(count / total) for count in counts.values())


def described(solutions: Sequence[list[str]]) -> str:
    generator = random.Random(0)
    found = entropy(solutions)
    spread = sorted(entropy(generator.choices(solutions, k=len(solutions))) for _ in range(RESAMPLINGS))
    low, high = 2 * found - spread[-RESAMPLINGS // 40], 2 * found - spread[RESAMPLINGS // 40]
    distinct = len({sentence for solution in solutions for sentence in solution})
    return f"{distinct} distinct, {found:.2f} ({low:.2f}–{high:.2f}) nats"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    if missing := [run for run in runs if not (run / "samples.jsonl").is_file()]:
        parser.error(f"{missing[0]} has no samples.jsonl: name folders of runs that were evaluated")
    for run in runs:
        settings: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        with (run / "samples.jsonl").open() as file:
            for line in file:
                record = json.loads(line)
                settings[series_label(record), record["steps_per_block"]].append(record)
        for (decoder, steps), records in settings.items():
            right = [record for record in records if record["strict"]]
            print(f"{run.name}, {decoder}, {steps} a block: {len(right)} of {len(records)} right", end="")
            if right:
                own = described([wordings(record["response"]) for record in right])
                print(f"; {own}; the generator: {described([wordings(r['target']) for r in right])}", end="")
            print()


if __name__ == "__main__":
    main()
