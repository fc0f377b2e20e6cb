"""Programs that behave: what passes, what fails, and what comes back."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codd_lightning.errors import UserError
from codd_lightning.sandbox import SANDBOXES, run_python
from codd_lightning.sandbox.limits import LEAST_MEMORY_MIB

ADD = "def add(a, b):\n    return a + b\n"


def test_a_program_that_reaches_its_end_passes_with_its_output(sandbox: str) -> None:
    result = run_python("import sys\nprint('a')\nprint('b', file=sys.stderr, flush=True)", sandbox=sandbox)
    assert result.status == "passed"
    assert sorted(result.output.split()) == ["a", "b"]
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("code", "tests", "status"),
    [
        (ADD, "assert add(1, 2) == 3", "passed"),
        (ADD, "assert add(1, 2) == 4", "failed"),
        (ADD, "assert minus(1, 2) == 3", "failed"),
        ("def add(a, b) return", "assert True", "failed"),
        (ADD, "assert add(1, 2) ==", "failed"),
        ("raise ValueError('no')", "", "failed"),
        ("", "", "passed"),
        ("x = 'é\\u2028\\U0001F600'\nprint(x)", "assert len(x) == 3", "passed"),
        ("# " + "long " * 100_000, "assert True", "passed"),
    ],
    ids=range(9),
)
def test_tests_decide(code: str, tests: str, status: str, sandbox: str) -> None:
    assert run_python(code, tests, sandbox=sandbox).status == status


def test_what_failed_can_be_read(sandbox: str) -> None:
    assert "ZeroDivisionError" in run_python("1 / 0", sandbox=sandbox).output


def test_a_main_part_runs_in_a_program_and_not_in_a_module_under_test(sandbox: str) -> None:
    code = "if __name__ == '__main__':\n    print('main')\n"
    assert run_python(code, sandbox=sandbox).output == "main\n"
    assert run_python(code, "pass", sandbox=sandbox).output == ""


def test_classes_can_be_pickled_and_temporary_files_written(sandbox: str) -> None:
    code = """
import dataclasses, pickle, tempfile, typing
@dataclasses.dataclass
class Point:
    x: "typing.Optional[int]" = 1
assert pickle.loads(pickle.dumps(Point())) == Point(1)
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x" * 1000)
"""
    result = run_python(code, sandbox=sandbox)
    assert result.status == "passed", result.output
    assert run_python(code, "assert Point().x == 1", sandbox=sandbox).status == "passed"


def test_processes_and_threads_within_the_limit_may_be_used(sandbox: str) -> None:
    code = """
import subprocess, sys, threading
threads = [threading.Thread(target=print, args=(i,)) for i in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout == "42\\n"
"""
    result = run_python(code, sandbox=sandbox)
    assert result.status == "passed", result.output


def test_one_run_sees_nothing_of_another(sandbox: str) -> None:
    code = """
import os, tempfile
path = os.path.join(tempfile.gettempdir(), "left")
assert not os.path.exists(path)
open(path, "w").close()
"""
    assert [run_python(code, sandbox=sandbox).status for _ in range(2)] == ["passed", "passed"]


def test_the_environment_of_the_caller_stays_with_the_caller(sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert "SECRET" not in run_python("import os; print(dict(os.environ))", sandbox=sandbox).output


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        *((limit, value) for limit in ("seconds", "memory_mib", "files_mib", "output_kib") for value in (0, -1, "ten")),
        *(("seconds", value) for value in (float("inf"), float("nan"), 86_401, 1e300)),
        ("memory_mib", 31),
        ("files_mib", 1.5),
        ("output_kib", float("inf")),
    ],
)
def test_a_limit_that_limits_nothing_or_everything_is_refused_before_anything_starts(
    limit: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(UserError, match=f"^{limit}={re.escape(str(value))} must be "):
        run_python("pass", **{limit: value})  # type: ignore[arg-type]  # wrong kinds among them


def test_an_interpreter_starts_with_the_least_memory(sandbox: str) -> None:
    assert run_python("print(1)", memory_mib=LEAST_MEMORY_MIB, sandbox=sandbox).status == "passed"


def test_an_unknown_sandbox_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError) as refusal:
        run_python("pass", sandbox="chroot")
    assert all(name in str(refusal.value) for name in ("chroot", *SANDBOXES))


def test_an_interpreter_whose_folder_holds_a_home_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}.*virtual environment"):
        run_python("pass")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("bwrap") is None, reason="needs root and bubblewrap")
def test_bubblewrap_is_refused_to_root() -> None:
    with pytest.raises(UserError, match="root"):
        run_python("pass", sandbox="bubblewrap")


@pytest.mark.parametrize("where", ["codd_lightning.evaluation", "codd_lightning.sandbox"])
def test_the_sandbox_is_found_where_it_is_promised(where: str) -> None:
    assert importlib.import_module(where).run_python is run_python


def test_the_sandbox_imports_nothing_heavy() -> None:
    code = "import sys, codd_lightning.sandbox; print(*{name.split('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "lightning", "transformers", "hydra"} & set(names)
