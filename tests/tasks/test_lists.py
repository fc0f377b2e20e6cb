"""List tasks: their answers, and what follows from them, against reference values and brute force."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.errors import UserError
from codd_lightning.tasks import Answers, ListTask
from codd_lightning.tasks.lists import KINDS, MARKER

BARRIER = json.loads((Path(__file__).parents[1] / "oracle" / "barrier.json").read_text())


def answers_of(kind: str, items: int = 4) -> Answers:
    task = ListTask(kind, items)
    return task.answers(task.example("test", 0, 0).prompt)


@pytest.mark.parametrize("case", BARRIER, ids=lambda case: f"{case['task']}-{case['n']}")
def test_the_reference_values_come_out(case: dict[str, Any]) -> None:
    answers = answers_of(case["task"], case["n"])
    assert (len(answers), answers.length) == (case["outputs"], case["length"])
    assert answers.total_correlation == pytest.approx(case["total_correlation_nats"], abs=1e-9)
    assert answers.one_step_right == pytest.approx(case["one_step_valid"], abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("copy", {"a b c"}),
        ("reverse", {"c b a"}),
        ("sort", {"a b c"}),
        ("insert_at", {"a x b c"}),
        ("remove_at", {"a c"}),
        ("replace_at", {"a x c"}),
        ("insert", {"x a b c", "a x b c", "a b x c", "a b c x"}),
        ("remove", {"b c", "a c", "a b"}),
        ("replace", {"x b c", "a x c", "a b x"}),
        ("permutation", {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}),
        ("shuffle", {"a c b", "b a c", "b c a", "c a b", "c b a"}),
        ("cities", {"new york", "san diego", "los angeles", "las vegas"}),
    ],
)
def test_answers_are_listed(kind: str, expected: set[str]) -> None:
    assert {" ".join(answer) for answer in answers_of(kind, 3).listed} == expected


def test_latin_squares_repeat_no_word_in_a_row_or_column() -> None:
    for square in answers_of("latin", 3).listed:
        rows = [square[i : i + 3] for i in (0, 3, 6)]
        assert all(len(set(line)) == 3 for line in (*rows, *zip(*rows, strict=True)))


@pytest.mark.parametrize("known", [{}, {0: "b"}, {1: "a", 3: "c"}, {2: MARKER}])
@pytest.mark.parametrize("kind", ["permutation", "insert", "replace", "shuffle"])
def test_marginals_count_the_answers_that_fit(kind: str, known: dict[int, str]) -> None:
    answers = answers_of(kind)
    fitting = [answer for answer in answers.listed if all(answer[i] == word for i, word in known.items())]
    found = answers.marginals(known)
    if not fitting:
        assert found is None
        return
    assert found is not None
    for position in range(answers.length):
        counts = Counter(answer[position] for answer in fitting)
        for place, word in enumerate(answers.words):
            assert found[position, place] == pytest.approx(counts[word] / len(fitting))


def drawn_in_order(answers: Answers, quotas: list[int]) -> float:
    """Over every order of positions, every draw, step by step."""
    total, orders = 0.0, list(itertools.permutations(range(answers.length)))
    for order in orders:
        states = {(): 1.0}
        taken = 0
        for quota in quotas:
            positions = order[taken : taken + quota]
            taken += quota
            following: dict[tuple[tuple[int, str], ...], float] = {}
            for state, chance in states.items():
                marginals = answers.marginals(dict(state))
                if marginals is None:
                    continue
                for words in itertools.product(range(len(answers.words)), repeat=quota):
                    drawn = chance * math.prod(marginals[i, w] for i, w in zip(positions, words, strict=True))
                    if drawn:
                        added = tuple((i, answers.words[w]) for i, w in zip(positions, words, strict=True))
                        following[(*state, *added)] = following.get((*state, *added), 0.0) + drawn
            states = following
        total += sum(c for s, c in states.items() if tuple(word for _, word in sorted(s)) in answers)
    return total / len(orders)


@pytest.mark.parametrize("quotas", [[3], [2, 1], [1, 2], [1, 1, 1]])
@pytest.mark.parametrize("kind", ["permutation", "shuffle", "replace"])
def test_the_chance_of_random_orders_is_that_of_all_orders_and_draws(kind: str, quotas: list[int]) -> None:
    answers = answers_of(kind, 3)
    assert answers.random_order_right(quotas) == pytest.approx(drawn_in_order(answers, quotas))


def test_one_word_a_step_is_always_right() -> None:
    for kind in KINDS:
        answers = answers_of(kind, 3)
        if answers.length <= 4:
            assert answers.random_order_right([1] * answers.length) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_problems_repeat_by_their_index_and_grade_their_own_answers(kind: str) -> None:
    task = ListTask(kind, 3, varies=True)
    prompts = set()
    for index in range(20):
        example = task.example("train", index, 0)
        assert example == task.example("train", index, 0)
        assert task.grade(example, example.response, True).strict
        assert not task.grade(example, example.response, False).strict
        assert not task.grade(example, "a a a a", True).flexible
        assert set(f"{example.prompt} {example.response}".split()) <= set(task.vocabulary)
        prompts.add(example.prompt)
    assert len(prompts) > 5
    assert task.example("train", 0, 0) != task.example("test", 0, 0) or kind in ("cities", "latin")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "magic"}, "data.task.kind=magic"),
        ({"items": 1}, "data.task.items=1"),
        ({"items": 9}, "data.task.pool=8"),
        ({"kind": "latin", "items": 5}, "latin of more than 4"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ListTask(**options)


@pytest.mark.parametrize(
    "prompt",
    [
        "permutation 1 : a a b c =",
        "permutation 1 : a b c =",
        "permutation 9 : a b c d =",
        "permutation ² : a b c d =",
        "shuffle 1 : a b c d =",
        "permutation 1 : =",
        "",
    ],
)
def test_prompts_of_no_problem_are_refused(prompt: str) -> None:
    with pytest.raises(UserError):
        ListTask("permutation").answers(prompt)


def once(answer: tuple[str, ...]) -> bool:
    return len(set(answer)) == len(answer)


def no_neighbours_alike(answer: tuple[str, ...]) -> bool:
    return all(left != right for left, right in itertools.pairwise(answer))


# What a circuit that sees tokens but no prompt must forbid, so that of the completions that the true marginals allow
# only right ones are left (docs/barrier.md).
RULES: dict[str, Callable[[tuple[str, ...]], bool]] = {
    "permutation": once,
    "remove": no_neighbours_alike,
    "replace": lambda answer: answer.count(MARKER) == 1,
    "insert": lambda answer: no_neighbours_alike(answer) and answer.count(MARKER) == 1,
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("index", range(3))
def test_a_rule_without_the_prompt_leaves_the_right_answers(kind: str, index: int) -> None:
    task = ListTask(kind, 4, varies=True)
    answers = task.example("test", index, 0).problem
    marginals = answers.marginals({})
    allowed = [[answers.words[w] for w in range(len(answers.words)) if row[w] > 0] for row in marginals]
    left = {completion for completion in itertools.product(*allowed) if RULES[kind](completion)}
    assert left == set(answers.listed)


def test_no_rule_without_the_prompt_tells_a_shuffle_from_its_list() -> None:
    """Both `ab → ba` and `ba → ab` are right: what one list forbids, the other needs."""
    task = ListTask("shuffle", 3, varies=True, pool=3)
    lists = ["shuffle 1 : a b c =", "shuffle 1 : b a c ="]
    first, second = (set(task.answers(prompt).listed) for prompt in lists)
    assert ("a", "b", "c") in second - first
    assert ("b", "a", "c") in first - second
