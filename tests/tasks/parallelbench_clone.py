"""A folder in the format of a ParallelBench clone, with prompts and problems of our own."""

import json
from pathlib import Path
from typing import Any

import yaml

ITEMS = ["Ada Lux", "Bo Mann", "Cy Noor"]


def text(items: list[str]) -> str:
    return json.dumps(items)


def row(given: dict[str, Any], answer: Any, worked: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    start = given if worked is None else {**given, "icl_examples": worked}
    return {"input": start, "answer": answer, "output_format": None, "metadata": {"length": 3}}


def listed(answer: Any, **given: Any) -> list[dict[str, Any]]:
    return [row({"context": text(ITEMS), **given}, answer)]


TASKS: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
    "waiting_line/copy": ("list_match_score", r"Copy:\n{context}", listed(text(ITEMS))),
    "waiting_line/reverse": ("list_match_score", "Turn round: {context}", listed(text(ITEMS[::-1]))),
    "waiting_line/sort": ("list_match_score", "Sort: {context}", listed(text(sorted(ITEMS)))),
    "waiting_line/insert_index": (
        "list_match_score",
        "{word} after {index}: {context}",
        listed(text([*ITEMS[:2], "Di Orr", ITEMS[2]]), word="Di Orr", index=2),
    ),
    "waiting_line/remove_index": ("list_match_score", "Not {index}: {context}", listed(text(ITEMS[1:]), index=1)),
    "waiting_line/replace_index": (
        "list_match_score",
        "{word} for {index}: {context}",
        listed(["Di Orr", *ITEMS[1:]], word="Di Orr", index=1),
    ),
    "waiting_line/shuffle": (
        "list_shuffle_score",
        "Mix: {context}",
        [
            row({"context": text(ITEMS)}, {"input": ITEMS, "example": text(ITEMS[::-1])}),
            row(
                {"context": text(ITEMS[:2])},
                {"input": ITEMS[:2], "example": text(ITEMS[1::-1])},
                [
                    {
                        "input": {"context": text(["Ed Pahl", "Flo Quy"])},
                        "answer": {"input": ["Ed Pahl", "Flo Quy"], "example": text(["Flo Quy", "Ed Pahl"])},
                    }
                ],
            ),
        ],
    ),
    "waiting_line/insert_random": (
        "list_random_insert_score",
        "Somewhere {word}: {context}",
        listed({"input": ITEMS, "word": "Di Orr", "example": text([*ITEMS, "Di Orr"])}, word="Di Orr"),
    ),
    "waiting_line/remove_random": (
        "list_random_remove_score",
        "One less: {context}",
        listed({"input": ITEMS, "example": text(ITEMS[1:])}),
    ),
    "waiting_line/replace_random": (
        "list_random_replace_score",
        "{word} for one: {context}",
        listed({"input": ITEMS, "word": "Di Orr", "example": text(["Di Orr", *ITEMS[1:]])}, word="Di Orr"),
    ),
    "puzzle/latin_square_n4": (
        "latin_square_score",
        "A square of {size}: {symbols}",
        [
            row(
                {"size": 4, "symbols": "[Q, 7, R, 2]"},
                {"symbols": ["Q", "7", "R", "2"], "example": "Q,7,R,2\n7,R,2,Q\nR,2,Q,7\n2,Q,7,R"},
            )
        ],
    ),
    "puzzle/sudoku_n4": (
        "sudoku_score",
        "Solve:\n{puzzle}",
        [
            row({"size": 4, "puzzle": "1__4\n____\n____\n4__1"}, "1324\n2413\n3142\n4231"),
            row({"puzzle": "1004\n3000\n0000\n4001"}, "1234\n3412\n2143\n4321"),
        ],
    ),
    "words_to_sentence/easy": ("sentence_to_words_score", "Use {words}", [row({"words": "a"}, {"words": ["a"]})]),
    "paraphrase/some": ("paraphrase_score", "Say anew: {text}", [row({"text": "a"}, {"text": "a", "examples": []})]),
    "other/sums": ("math_op_score", "{equation}", [row({"equation": "1+1"}, {"result": "2"})]),
}
RULE_BASED = [name for name in TASKS if name.split("/")[0] in ("waiting_line", "puzzle")]


def write_clone(root: Path, tasks: dict[str, tuple[str, str, list[dict[str, Any]]]] = TASKS) -> Path:
    """Writes `some/data/output/test/CATEGORY/{task_config.yaml, NAME.jsonl}`."""
    for name, (metric, prompt, rows) in tasks.items():
        category, _, short = name.partition("/")
        folder = root / "some" / "data" / "output" / "test" / category
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "task_config.yaml"
        before = yaml.safe_load(config.read_text()) if config.exists() else {}
        config.write_text(yaml.safe_dump({**before, name: {"name": name, "metric": metric, "prompt": prompt}}))
        (folder / f"{short}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return root
