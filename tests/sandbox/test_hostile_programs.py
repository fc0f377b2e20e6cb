"""Programs that do not behave: each ends in the right status, soon, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from codd_lightning.sandbox import run_python

SECONDS = 2.0


def processes_with(mark: str) -> list[str]:
    """Command lines on this machine that hold a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in words:
                found.append(words.decode(errors="replace"))
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """A word for command lines; nothing that bears it may live after the run."""
    word = f"mark-{uuid.uuid4().hex}"
    yield word
    assert processes_with(word) == []


def statuses(code: str, tests: str = "", sandbox: str = "auto", memory_mib: int = 256) -> tuple[str, str]:
    started = time.monotonic()
    result = run_python(code, tests, seconds=SECONDS, memory_mib=memory_mib, files_mib=8, output_kib=4, sandbox=sandbox)
    assert time.monotonic() - started < SECONDS + 20  # it did not run into the caller's own patience
    assert len(result.output) <= 4096
    return result.status, result.output


NAPPER = "[sys.executable, '-c', 'import time; time.sleep(1000)', '{mark}']"


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(1000)", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"],
)
def test_what_never_ends_is_ended(code: str, sandbox: str) -> None:
    assert statuses(code, sandbox=sandbox)[0] == "timeout"


def test_ignored_signals_do_not_lengthen_a_run(sandbox: str) -> None:
    code = """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: pass
"""
    assert statuses(code, sandbox=sandbox)[0] == "timeout"


def test_a_fork_bomb_ends_with_its_run(sandbox: str, mark: str) -> None:
    code = f"""
import os, subprocess, sys, time
subprocess.Popen({NAPPER.format(mark=mark)})
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
"""
    assert statuses(code, sandbox=sandbox)[0] == "timeout"


def test_the_limit_on_processes_binds_whoever_runs_them(sandbox: str) -> None:
    code = """
import os, time
started = 0
try:
    for _ in range(100):
        if not os.fork():
            time.sleep(1000)
        started += 1
except OSError:
    pass
print(started)
"""
    status, output = statuses(code, sandbox=sandbox)
    assert status == "passed"
    assert 1 <= int(output) <= 18


def test_threads_are_limited_too(sandbox: str) -> None:
    code = """
import threading
for _ in range(100):
    threading.Thread(target=threading.Event().wait).start()
"""
    status, output = statuses(code, sandbox=sandbox, memory_mib=2048)
    assert status == "failed"
    assert "can't start new thread" in output


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = bytearray(2**40)", {"memory"}),
        ("x = []\nwhile True: x.append(bytearray(2**20))", {"memory"}),
        ("x = 'a'\nwhile True: x += x", {"memory"}),
        ("x = 10 ** 10 ** 10", {"memory", "timeout"}),
    ],
    ids=["at once", "by and by", "doubling", "a number"],
)
def test_a_memory_bomb_is_stopped_by_its_limit(code: str, expected: set[str], sandbox: str) -> None:
    assert statuses(code, sandbox=sandbox)[0] in expected


@pytest.mark.parametrize("shared", ["bytearray(size)", "mmap.mmap(-1, size)"])
def test_memory_of_all_processes_together_is_limited(shared: str, sandbox: str) -> None:
    code = f"""
import mmap, os, time
size = 120 * 2**20
for _ in range(6):
    if not os.fork():
        memory = {shared}
        for i in range(0, size, 4096):
            memory[i] = 1
        time.sleep(1000)
time.sleep(1000)
"""
    assert statuses(code, sandbox=sandbox)[0] == "memory"


def test_memory_outside_of_every_count_cannot_be_had(sandbox: str) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for call in (lambda: libc.shmget(0, 2**20, 0o1600), lambda: libc.memfd_create(b"x", 0)):
    assert call() == -1 and ctypes.get_errno() == 1
"""
    status, output = statuses(code, sandbox=sandbox)
    assert status == "passed", output


def test_descriptors_are_limited(sandbox: str) -> None:
    status, output = statuses("files = [open('/dev/null') for _ in range(1000)]", sandbox=sandbox)
    assert status == "failed"
    assert "Too many open files" in output


def test_the_disk_cannot_be_filled(walls: str) -> None:
    code = """
import os, tempfile
folder, written = tempfile.gettempdir(), 0
try:
    for i in range(100):
        with open(os.path.join(folder, str(i)), "wb", buffering=0) as file:
            written += file.write(bytes(2**20))
except OSError as error:
    print(written, error)
"""
    status, output = statuses(code, sandbox=walls)
    assert status == "passed"
    assert "No space left" in output
    assert int(output.split()[0]) <= 8 * 2**20


def test_a_file_can_only_grow_to_its_limit(sandbox: str) -> None:
    code = """
import signal, tempfile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with tempfile.TemporaryFile(buffering=0) as file:
    for _ in range(100):
        file.write(bytes(2**20))
"""
    status, output = statuses(code, sandbox=sandbox)
    assert status == "failed"
    assert "File too large" in output or "No space left" in output


def test_nothing_can_be_written_outside(walls: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = f"""
import os
library = os.path.dirname(os.__file__)
for folder in ("/", "/usr", "/etc", "/dev", "/root", "/home", "/var/tmp", {str(tmp_path)!r}, library):
    try:
        open(os.path.join(folder, "escaped"), "w").close()
    except OSError as error:
        continue
    print(folder)
"""
    status, output = statuses(code, sandbox=walls)
    assert (status, output) == ("passed", "")
    assert not list(tmp_path.iterdir())


def test_the_files_of_users_cannot_be_read(walls: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o666)
    home = Path.home()
    code = f"""
import os, sys
def entries(path):
    return os.listdir(path) if os.path.isdir(path) else []
assert not os.path.exists({str(secret)!r})
assert not os.path.exists({__file__!r})
assert not os.path.exists("/etc/shadow") and not os.path.exists("/run") and not os.path.exists("/sys")
assert entries("/tmp") == []
places = {{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu", "etc", "dev", "proc", "tmp", "codd"}}
places |= {{path.split("/")[1] for path in (sys.prefix, sys.base_prefix, os.path.realpath(sys.executable))}}
assert set(os.listdir("/")) <= places, os.listdir("/")
for home in ({str(home)!r}, "/root", *(os.path.join("/home", name) for name in entries("/home"))):
    for folder, folders, files in os.walk(home):
        if folder in (sys.prefix, sys.base_prefix):
            folders.clear()
            continue
        assert not files, (folder, files)
"""
    status, output = statuses(code, sandbox=walls)
    assert status == "passed", output


def test_links_lead_nowhere(walls: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("as it was")
    (tmp_path / "target").chmod(0o666)
    code = f"""
import os
os.chdir("/tmp")
os.symlink({str(tmp_path / "target")!r}, "link")
os.symlink("/proc/1/root", "root")
os.symlink("/", "out")
for path in ("link", "root" + {str(tmp_path / "target")!r}, "out" + {str(tmp_path / "target")!r}):
    try:
        open(path, "r+").write("changed")
    except OSError:
        continue
    print(path)
"""
    assert statuses(code, sandbox=walls) == ("passed", "")
    assert (tmp_path / "target").read_text() == "as it was"


def test_there_is_no_network_not_even_to_this_machine(sandbox: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        code = f"""
import socket
for address in (("127.0.0.1", {port}), ("1.1.1.1", 53), ("localhost", 22)):
    try:
        socket.create_connection(address, timeout=1)
    except OSError:
        continue
    print(address)
"""
        assert statuses(code, sandbox=sandbox) == ("passed", "")
        with pytest.raises(TimeoutError):
            server.accept()


def test_sockets_of_this_machine_cannot_be_reached(sandbox: str) -> None:
    name = f"\0{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})"
        assert statuses(code, sandbox=sandbox)[0] == "failed"


def test_the_parent_and_everyone_else_survive_being_killed(walls: str) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        code = f"""
import os, signal
for process in (os.getppid(), 1, -1, {bystander.pid}, {os.getpid()}):
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        try:
            os.kill(process, number)
        except OSError:
            continue
print("still here")
"""
        status, output = statuses(code, sandbox=walls)
        assert (status, output) == ("passed", "still here\n")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_other_processes_cannot_be_seen(walls: str) -> None:
    status, output = statuses("import os; print(*sorted(n for n in os.listdir('/proc') if n.isdigit()))", sandbox=walls)
    assert status == "passed"
    assert set(map(int, output.split())) <= set(range(1, 5))


@pytest.mark.parametrize("endless", [False, True])
def test_a_flood_of_output_is_cut(endless: bool, sandbox: str) -> None:
    code = f"import sys\nfor _ in iter(int, 1) if {endless} else range(200):\n    sys.stdout.write('x' * 100_000)"
    status, output = statuses(code, sandbox=sandbox)
    assert status == ("timeout" if endless else "passed")
    assert output == "x" * 4096


@pytest.mark.parametrize(
    "code",
    [
        "exit(0)",
        "quit()",
        "raise SystemExit",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.CDLL(None)._exit(0)",
        "import os; os.execv('/bin/true', ['true'])",
        "import threading, os; threading.Thread(target=lambda: os._exit(0)).start()\nwhile True: pass",
        "import signal, os; signal.signal(signal.SIGALRM, lambda *_: os._exit(0)); signal.setitimer(0, 0.01)\n"
        "while True: pass",
        "import os\nif os.fork(): os._exit(0)",
        "import os\nif os.fork(): os.wait(); os._exit(0)",
    ],
)
@pytest.mark.parametrize("tests", ["", "assert False"])
def test_an_end_before_the_end_is_a_failure(code: str, tests: str, sandbox: str) -> None:
    assert statuses(code, tests, sandbox=sandbox)[0] == "failed"


@pytest.mark.parametrize(
    "code",
    [
        "import builtins; builtins.AssertionError = type('Quiet', (BaseException,), {})",
        "import builtins; builtins.exec = builtins.compile = lambda *_: None",
        "import os, sys; sys.exit = os._exit = exit = quit = lambda *_: None; os.write = print",
        "import sys; sys.excepthook = lambda *_: None",
        "import os, sys; sys.modules['os'] = None; sys.stdout = sys.stderr = None",
        "import atexit, os; atexit.register(os._exit, 0)",
        "import os\nos.closerange(0, 64)",
        "import os\nfor i in range(3, 64):\n    try: os.write(i, b'passed')\n    except OSError: pass",
        "class Quiet(BaseException): pass\nAssertionError = Quiet",
        "import sys; sys.settrace(lambda *_: None)",
    ],
)
def test_what_a_program_replaces_does_not_make_failing_tests_pass(code: str, sandbox: str) -> None:
    assert statuses(code, "assert 1 == 2", sandbox=sandbox)[0] == "failed"


def test_replaced_functions_do_not_make_passing_tests_fail(sandbox: str) -> None:
    code = "import os, sys, builtins\nos._exit = sys.exit = os.write = os.read = os.getpid = None\nbuiltins.exec = None"
    assert statuses(code, "assert 1 == 1", sandbox=sandbox)[0] == "passed"


@pytest.mark.parametrize("end", ["", "os._exit(0)", "while True: pass"])
def test_no_daemon_stays(end: str, sandbox: str, mark: str) -> None:
    code = f"""
import os, subprocess, sys, time
if not os.fork():
    os.setsid()
    if not os.fork():
        subprocess.Popen({NAPPER.format(mark=mark)}, start_new_session=True)
        os._exit(0)
    time.sleep(1000)
time.sleep(0.3)
{end}
"""
    status = statuses(code, sandbox=sandbox)[0]
    assert status == {"": "passed", "os._exit(0)": "failed"}.get(end, "timeout")


def test_no_privileges_can_be_regained(sandbox: str) -> None:
    code = """
import ctypes, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
assert status["NoNewPrivs"].strip() == "1"
assert os.getuid() != 0
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000) == -1
assert libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1
assert libc.ptrace(16, os.getppid(), 0, 0) == -1
try:
    os.setuid(0)
except OSError:
    pass
else:
    raise SystemExit
"""
    status, output = statuses(code, sandbox=sandbox)
    assert status == "passed", output


def test_the_supervisor_cannot_be_read(sandbox: str) -> None:
    code = "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')"
    status, output = statuses(code, sandbox=sandbox)
    assert status == "failed"
    assert "Permission denied" in output or "No such file" in output


def test_a_caller_that_is_killed_takes_the_program_with_it(sandbox: str, mark: str) -> None:
    program = f"import subprocess, sys; subprocess.run({NAPPER.format(mark=mark)})"
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from codd_lightning.sandbox import run_python; run_python({program!r}, seconds=60, sandbox={sandbox!r})",
        ]
    )
    while not (running := any("time.sleep" in words for words in processes_with(mark))) and caller.poll() is None:
        time.sleep(0.02)
    assert running
    caller.kill()
    caller.wait()
    patience = time.monotonic() + 20
    while processes_with(mark) and time.monotonic() < patience:
        time.sleep(0.02)
