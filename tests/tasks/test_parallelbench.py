"""The rule-based tasks of ParallelBench, on small files of its format."""

import json
from pathlib import Path

import pytest

from codd_lightning.errors import UserError
from codd_lightning.tasks import Example, Grade, ParallelBenchTask, Task

from .parallelbench_clone import ITEMS, RULE_BASED, TASKS, text, write_clone

A, B, C = ITEMS
RIGHT, FOUND, WRONG = Grade(True, True), Grade(False, True), Grade(False, False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return write_clone(tmp_path)


def first(clone: Path, name: str) -> tuple[ParallelBenchTask, Example]:
    task = ParallelBenchTask(str(clone), [name])
    return task, task.example("test", 0, 0)


def examples(task: ParallelBenchTask) -> list[Example]:
    return [task.example("test", i, 0) for i in range(task.size("test"))]


def test_all_rule_based_subtasks_are_taken_and_come_in_turn(clone: Path) -> None:
    task = ParallelBenchTask(str(clone))
    assert isinstance(task, Task)
    names = [example.problem.subtask for example in examples(task)]
    assert sorted(names[:12]) == sorted(RULE_BASED)
    assert sorted(names[12:]) == ["puzzle/sudoku_n4", "waiting_line/shuffle"]  # those with a second row


@pytest.mark.parametrize("name", RULE_BASED)
def test_a_subtasks_own_answers_are_right_if_they_end(name: str, clone: Path) -> None:
    task = ParallelBenchTask(str(clone), [name])
    for example in examples(task):
        assert task.grade(example, example.response, ended=True) == RIGHT
        assert task.grade(example, f" {example.response}\n", ended=True) == RIGHT
        assert task.grade(example, example.response, ended=False) == FOUND
        assert task.grade(example, f"Sure, here it is:\n{example.response}\nWas that all?", ended=True) == FOUND
        assert task.grade(example, "", ended=True) == WRONG


@pytest.mark.parametrize(
    ("name", "response", "grade"),
    [
        ("copy", text([A, C, B]), WRONG),
        ("copy", text([A, B]), WRONG),
        ("copy", f"[{A}, {B}, {C}]", FOUND),
        ("copy", f"{A}, {B}, {C}", FOUND),
        ("copy", f"['{A}', '{B}', '{C}'", FOUND),
        ("copy", f"{text([A, B, C])} no: {text([A, C, B])}", WRONG),  # the last one counts
        ("copy", f"{text([A, C, B])} no: {text([A, B, C])}", FOUND),
        ("copy", json.dumps({"line": ITEMS}), FOUND),
        ("copy", "[" * 100_000, WRONG),
        ("reverse", text([C, B, A]), RIGHT),
        ("reverse", text([A, B, C]), WRONG),
        ("insert_index", text([A, "Di Orr", B, C]), WRONG),
        ("replace_index", text(["Di Orr", B, C]), RIGHT),
        ("shuffle", text([A, B, C]), WRONG),
        ("shuffle", text([B, A, C]), RIGHT),
        ("shuffle", text([B, A, A]), WRONG),
        ("shuffle", text([B, A]), WRONG),
        ("insert_random", text(["Di Orr", A, B, C]), RIGHT),
        ("insert_random", text([A, "Di Orr", B, C]), RIGHT),
        ("insert_random", text([B, A, "Di Orr", C]), WRONG),
        ("insert_random", text([A, "Ed Pahl", B, C]), WRONG),
        ("insert_random", text([A, B, C]), WRONG),
        ("remove_random", text([A, C]), RIGHT),
        ("remove_random", text([C, A]), WRONG),
        ("remove_random", text([A, B, C]), WRONG),
        ("remove_random", text([A]), WRONG),
        ("replace_random", text([A, B, "Di Orr"]), RIGHT),
        ("replace_random", text([B, A, "Di Orr"]), WRONG),
        ("replace_random", text([A, B, C]), WRONG),
        ("replace_random", text(["Di Orr", "Di Orr", C]), WRONG),
    ],
)
def test_any_right_list_counts_and_no_other(name: str, response: str, grade: Grade, clone: Path) -> None:
    task, example = first(clone, f"waiting_line/{name}")
    assert task.grade(example, response, ended=True) == grade


@pytest.mark.parametrize(
    ("name", "response", "grade"),
    [
        ("latin_square_n4", "2,R,7,Q\nR,2,Q,7\n7,Q,2,R\nQ,7,R,2", RIGHT),  # another one than the file's
        ("latin_square_n4", "2, R, 7, Q\nR, 2, Q, 7\n7, Q, 2, R\nQ, 7, R, 2", RIGHT),
        ("latin_square_n4", "2R7Q\nR2Q7\n7Q2R\nQ7R2", FOUND),
        ("latin_square_n4", "2 R 7 Q\nR 2 Q 7\n\n7 Q 2 R\nQ 7 R 2\nThat is a square", FOUND),
        ("latin_square_n4", "2,R,7,Q\nR,2,Q,7\n7,Q,2,R", WRONG),
        ("latin_square_n4", "2,R,7,Q\n2,R,7,Q\n7,Q,2,R\nQ,7,R,2", WRONG),
        ("latin_square_n4", "2,R,7,A\nR,2,A,7\n7,A,2,R\nA,7,R,2", WRONG),
        ("sudoku_n4", "1324\n2413\n3142\n4231", RIGHT),
        ("sudoku_n4", "1234\n3412\n2143\n4321", RIGHT),  # another solution than the file's
        ("sudoku_n4", "1 3 2 4\n2 4 1 3\n3 1 4 2\n4 2 3 1", FOUND),
        ("sudoku_n4", "2314\n1423\n3142\n4231", WRONG),  # a solution of another puzzle
        ("sudoku_n4", "1234\n2143\n3412\n4321", WRONG),  # no box holds all digits
        ("sudoku_n4", "1__4\n____\n____\n4__1", WRONG),
        ("sudoku_n4", "1234\n2143\n3412\n4321\nno:\n1234\n3412\n2143\n4321", FOUND),  # the last one counts
        ("sudoku_n4", "1234\n3412\n2143\n4321\nno:\n1234\n2143\n3412\n4321", WRONG),
    ],
)
def test_any_right_square_counts_and_no_other(name: str, response: str, grade: Grade, clone: Path) -> None:
    task, example = first(clone, f"puzzle/{name}")
    assert task.grade(example, response, ended=True) == grade


def test_an_entry_with_a_comma_is_read_where_the_form_is_kept(tmp_path: Path) -> None:
    answer = text(["Lux, Ada", "Mann, Bo"])
    row = {"input": {"context": answer}, "answer": answer}
    task = ParallelBenchTask(str(write_clone(tmp_path, {"line/copy": ("list_match_score", "{context}", [row])})))
    assert task.grade(task.example("test", 0, 0), answer, ended=True) == RIGHT
    assert task.grade(task.example("test", 0, 0), answer, ended=False) == FOUND


def test_prompts_are_filled_from_the_input_and_written_new_lines_are_new_lines(clone: Path) -> None:
    assert first(clone, "waiting_line/copy")[1].prompt == f"Copy:\n{text(ITEMS)}"
    assert first(clone, "waiting_line/insert_index")[1].prompt == f"Di Orr after 2: {text(ITEMS)}"


def test_a_worked_example_is_an_earlier_turn(clone: Path) -> None:
    task = ParallelBenchTask(str(clone), ["waiting_line/shuffle"])
    assert task.example("test", 0, 0).turns == ()
    assert task.example("test", 1, 0).turns == ((f"Mix: {text(['Ed Pahl', 'Flo Quy'])}", text(["Flo Quy", "Ed Pahl"])),)


def test_a_folder_inside_the_clone_will_do_and_training_data_is_left_alone(clone: Path) -> None:
    output = clone / "some" / "data" / "output"
    (output / "train").mkdir()
    (output / "train" / "task_config.yaml").write_text("nonsense")
    assert examples(ParallelBenchTask(str(clone))) == examples(ParallelBenchTask(str(output / "test")))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_training_on_it_is_refused(split: str, clone: Path) -> None:
    task = ParallelBenchTask(str(clone))
    for ask in (task.size, lambda split: task.example(split, 0, 0)):
        with pytest.raises(UserError, match=f"^ParallelBench has no {split} split.*codd evaluate"):
            ask(split)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("words_to_sentence/easy", ["text task", "LanguageTool", "waiting_line/copy"]),
        ("paraphrase/some", ["text task", "BERTScore"]),
        ("other/sums", ["no rule for math_op_score"]),
        ("waiting_line/copi", ["there is no waiting_line/copi", "waiting_line/copy"]),
    ],
)
def test_what_rules_cannot_grade_is_refused_by_name(name: str, words: list[str], clone: Path) -> None:
    with pytest.raises(UserError) as refusal:
        ParallelBenchTask(str(clone), [name])
    assert all(word in str(refusal.value) for word in [name, *words])
    assert "\n" not in str(refusal.value)


def test_a_clone_without_data_is_refused_with_what_is_missing(clone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at data\.path="):
        ParallelBenchTask(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no task_config\.yaml under data\.path="):
        ParallelBenchTask(str(tmp_path / "empty"))
    for file in clone.rglob("copy.jsonl"):
        file.unlink()
    assert "waiting_line/copy" not in {example.problem.subtask for example in examples(ParallelBenchTask(str(clone)))}
    with pytest.raises(UserError, match=r"waiting_line/copy has no file at .*copy\.jsonl"):
        ParallelBenchTask(str(clone), ["waiting_line/copy"])
    for file in clone.rglob("*.jsonl"):
        file.unlink()
    with pytest.raises(UserError, match="holds no JSONL file"):
        ParallelBenchTask(str(clone))


def test_a_subtask_that_is_there_twice_is_refused(clone: Path) -> None:
    write_clone(clone / "older", {"waiting_line/copy": TASKS["waiting_line/copy"]})
    with pytest.raises(UserError, match=r"waiting_line/copy is both in .* and .*: give one of their folders"):
        ParallelBenchTask(str(clone))


GOOD = {"context": text(ITEMS), "word": "Di Orr"}


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("waiting_line/copy", "{", "not JSON"),
        ("waiting_line/copy", "[]", "not a JSON object"),
        ("waiting_line/copy", json.dumps({"answer": "[]"}), 'field "input" is missing'),
        ("waiting_line/copy", json.dumps({"input": GOOD}), 'field "answer" is missing'),
        ("waiting_line/copy", json.dumps({"input": "a", "answer": "[]"}), 'field "input" is str'),
        ("waiting_line/copy", json.dumps({"input": {}, "answer": text(ITEMS)}), 'needs "context"'),
        ("waiting_line/copy", json.dumps({"input": GOOD, "answer": "a, b"}), '"answer" is not a list of texts'),
        ("waiting_line/copy", json.dumps({"input": GOOD, "answer": [1]}), "are not all texts"),
        (
            "waiting_line/shuffle",
            json.dumps({"input": GOOD, "answer": {"input": ITEMS, "example": text(ITEMS)}}),
            "is not right by our rule for list_shuffle_score",
        ),
        (
            "waiting_line/insert_random",
            json.dumps({"input": GOOD, "answer": {"input": ITEMS, "example": text(ITEMS)}}),
            'field "word" is missing',
        ),
        (
            "waiting_line/shuffle",
            json.dumps(
                {"input": {**GOOD, "icl_examples": ["a"]}, "answer": {"input": [A, B], "example": text([B, A])}}
            ),
            'field "input" is missing',
        ),
        ("puzzle/sudoku_n4", json.dumps({"input": {"puzzle": "12"}, "answer": "12"}), "holds no square of digits"),
    ],
    ids=range(12),
)
def test_a_row_in_another_format_is_refused_by_file_and_line(name: str, line: str, complaint: str, clone: Path) -> None:
    file = next(clone.rglob(f"{name.split('/')[1]}.jsonl"))
    file.write_text(f"{json.dumps(TASKS[name][2][0])}\n{line}\n")
    with pytest.raises(UserError) as refusal:
        ParallelBenchTask(str(clone), [name])
    assert str(refusal.value).startswith(f"{file}, line 2: ")
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "does not map names"),
        ("a: {metric: m}", 'task a has no text "prompt"'),
        ("a: {prompt: p, metric: 3}", 'task a has no text "metric"'),
        ("!!python/object/apply:os.system ['false']", "not valid YAML"),
    ],
)
def test_a_configuration_in_another_format_is_refused(content: str, complaint: str, clone: Path) -> None:
    file = next(clone.rglob("task_config.yaml"))
    file.write_text(content)
    with pytest.raises(UserError, match=complaint) as refusal:
        ParallelBenchTask(str(clone))
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)
