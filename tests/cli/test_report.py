"""`codd report`: what is collected, what is left out, what is written, and what is said of it."""

import csv
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.cli.main import main
from codd_lightning.evaluation import row

from .report_runs import HOSTILE, accuracy, two_decoders, write_run


def test_a_report_holds_every_number_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = row("aup", 0.25, 0.2, 0.3, 7, "fraction", "test", surprise=[1, 2])
    write_run(tmp_path / "a", [accuracy("factorized", 1, [True, False]), unknown])
    write_run(tmp_path / "deep" / "er" / "b", [row("training_seconds", 3.5, 3.5, 3.5, 1, "s", "train")])
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 3 numbers" in said
    report = tmp_path / "report"
    assert str(report / "report.md") in said
    rows = list(csv.DictReader((report / "report.csv").read_text().splitlines()))
    assert [(r["run"], r["name"], float(r["value"])) for r in rows] == [
        ("a", "strict_accuracy", 0.5),
        ("a", "aup", 0.25),
        ("deep/er/b", "training_seconds", 3.5),
    ]
    assert rows[1]["surprise"] == "[1, 2]"
    text = (report / "report.md").read_text()
    assert "surprise=[1, 2]" in text.replace("\\", "")
    for link in re.findall(r"\(figures/(.*?)\)", text):
        assert (report / "figures" / link).is_file()
    assert {path.suffix for path in (report / "figures").iterdir()} == {".svg", ".png"}
    assert not (report / "report.html").exists()


def test_what_is_no_finished_run_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = row("aup", 0.25, 0.2, 0.3, 7, "fraction", "test")
    write_run(tmp_path / "good", [good])
    (write_run(tmp_path / "unfinished", []) / "results.json").unlink()
    (write_run(tmp_path / "torn", []) / "results.json").write_text('{"schema": 1, "metr')
    (write_run(tmp_path / "binary", []) / "config.yaml").write_bytes(b"\xff\xfe\x00")
    (write_run(tmp_path / "running", []) / "config.yaml").write_text("!!python/object/apply:os.system ['touch owned']")
    write_run(tmp_path / "nan", [{**good, "value": float("nan")}])
    write_run(tmp_path / "huge", [{**good, "value": 10**400}])
    write_run(tmp_path / "half", [{**good, "mask_ratio": [0.5]}])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "results.json").write_text('{"accuracy": 1}')
    newer = write_run(tmp_path / "newer", []) / "results.json"
    newer.write_text(newer.read_text().replace('"schema": 1', '"schema": 2'))
    write_run(tmp_path / "good" / ".replaced", [good])
    assert main(["report", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    left_out = {line.split()[2] for line in captured.err.splitlines()}
    assert left_out == {"unfinished", "torn", "binary", "running", "nan", "huge", "half", "foreign", "newer"}
    assert all(line.startswith("codd: warning: ") for line in captured.err.splitlines())
    assert "1 run, 1 numbers" in captured.out
    assert not Path("owned").exists()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30)
)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (BOMB, "alias"),
        ("a: &a [*a]", "alias"),
        ("a: &a {b: *a}", "alias"),
        ("[" * 900 + "]" * 900, "config.yaml"),
        ("a: " + "[" * 90 + "]" * 90, "64 deep"),
        ("a: !!bool x", "config.yaml"),
        ("a: !!timestamp x", "config.yaml"),
        ("a: 0x" + "f" * 5000, "300 digits"),
    ],
    ids=["bomb", "in itself", "in itself by key", "deep", "less deep", "bool", "time", "digits"],
)
def test_a_configuration_that_attacks_is_named_and_its_run_left_out(
    config: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "good", [])
    (write_run(tmp_path / "bad", []) / "config.yaml").write_text(config)
    assert main(["report", str(tmp_path)]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("codd: warning: bad is left out: config.yaml")
    assert complaint in warning
    assert len(warning) < 250


def test_a_configuration_may_have_keys_that_are_no_texts(tmp_path: Path) -> None:
    (write_run(tmp_path / "a", []) / "config.yaml").write_text("a: [{2020-01-01: 1, 2: 3}]")
    write_run(tmp_path / "b", [])
    assert main(["report", str(tmp_path)]) == 0
    assert "2020-01-01" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seconds": 10**400}, "300 digits"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": -1}, "seconds is -1"),
        ({"seconds": True}, "seconds is True"),
        ({"seconds": "long"}, "seconds is 'long'"),
        ({"parameters": {"circuit": "many"}}, "parameters.circuit is 'many'"),
        ({"extra": nested(900)}, "64 deep"),
    ],
    ids=["digits", "nan", "negative", "bool", "text", "parameters", "deep"],
)
def test_results_with_a_wrong_value_are_named_and_left_out(
    changes: dict[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "good", [])
    results = write_run(tmp_path / "bad", []) / "results.json"
    results.write_text(json.dumps({**json.loads(results.read_text()), **changes}))
    assert main(["report", str(tmp_path)]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("codd: warning: bad is left out: results.json")
    assert complaint in warning


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"low": 0.9}, "low is 0.9, above high, 0.3"),
        ({"steps_per_block": -1}, "steps_per_block is -1"),
        ({"steps_per_block": 1.5}, "steps_per_block is 1.5"),
        ({"steps_per_block": "4"}, "steps_per_block is '4'"),
        ({"nfe": "few"}, "nfe is 'few'"),
        ({"gamma": [1]}, "gamma is [1]"),
        ({"commit_bound": "high"}, "commit_bound is 'high'"),
        ({"commit_bound": None}, "commit_bound is None"),
        ({"commit": 3}, "commit is 3"),
    ],
)
def test_rows_with_a_wrong_value_are_named_and_their_run_left_out(
    changes: dict[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = row("aup", 0.25, 0.2, 0.3, 7, "fraction", "test")
    write_run(tmp_path / "good", [good])
    write_run(tmp_path / "bad", [good, {**good, **changes}])
    assert main(["report", str(tmp_path)]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"bad is left out: results.json, metrics[1]: {complaint}" in warning


@pytest.mark.parametrize("budget", [None, -4, "4", True])
def test_samples_without_a_step_budget_are_left_out(
    budget: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, samples = two_decoders(better=20)
    for record in samples:
        record["steps_per_block"] = budget
        if budget is None:
            del record["steps_per_block"]
    write_run(tmp_path / "run", rows, samples)
    assert main(["report", str(tmp_path), "--html"]) == 0
    assert "samples.jsonl, line 1 is not a sample" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["[" * 100_000, '{"index": 0}', "nonsense", '{"index": "0"}'])
def test_a_run_with_broken_samples_is_kept_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    rows, samples = two_decoders(better=20)
    folder = write_run(tmp_path / "run", rows, samples)
    with (folder / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    assert main(["report", str(tmp_path), "--html"]) == 0
    assert "samples.jsonl, line 81 is not a sample" in capsys.readouterr().err
    assert "Coupled against factorized" not in (tmp_path / "report" / "report.md").read_text()


def test_errors_are_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert not list(tmp_path.iterdir())
    write_run(tmp_path / "report" / "run", [])
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", str(tmp_path)]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "holds no finished run" in errors[0]
    assert "is not a folder" in errors[1]
    assert "which is of no report: move it" in errors[2]


def test_a_second_report_replaces_the_first_and_is_the_same(tmp_path: Path) -> None:
    rows, samples = two_decoders(better=20)
    write_run(tmp_path / "run", rows, samples)

    def report(*options: str) -> dict[str, bytes]:
        assert main(["report", str(tmp_path), *options]) == 0
        folder = tmp_path / "report"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with_page = report("--html")
    assert report("--html") == with_page
    without = report()
    assert set(with_page) - set(without) == {"report.html"}
    assert all(with_page[name] == content for name, content in without.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "run"]


def test_a_report_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", two_decoders(better=20)[0])
    assert main(["report", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    move = os.replace

    def fails_once(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        move(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    assert main(["report", str(tmp_path)]) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", two_decoders(better=20)[0])
    assert main(["report", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codd_lightning.evaluation.report.csv_of", full_disk)
    assert main(["report", str(tmp_path)]) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("better", "verdict"),
    [(20, "better"), (0, "no difference shown"), (1, "no difference shown"), (5, "no difference shown"), (6, "better")],
)
def test_better_is_said_only_where_chance_is_excluded(tmp_path: Path, better: int, verdict: str) -> None:
    write_run(tmp_path / "run", *two_decoders(better))  # 5 of 5 discordant: p = 2/32; 6 of 6: p = 2/64
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    line = next(
        line
        for line in text.splitlines()
        if "strict accuracy | any\\_order" in line or "strict accuracy | any_order" in line
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[-1] == verdict
    assert cells[5].startswith(f"{100 * better / 40:+.1f} (")


def test_a_grid_over_two_settings_becomes_a_heat_map(tmp_path: Path) -> None:
    for states in (4, 8):
        for rule in ("AdamW", "EM"):
            config = {"circuit": {"num_states": states}, "optimizer": {"_target_": f"x.{rule}", "lr": 1.0}}
            metrics = [row("nats_left", 1 / states, 0, 1, 1, "nats/problem", "test", head="any_order")]
            write_run(tmp_path / "grid" / f"{states},{rule}", metrics, **config)
    assert main(["report", str(tmp_path)]) == 0
    names = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"grid_grid_nats_left_per_problem.svg", "demo_nats_left_by_states.svg"} <= names


def test_a_heat_map_over_seeds_shows_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codd_lightning.evaluation.report import drawings

    drawn: list[Any] = []
    plain = drawings.heat_map
    monkeypatch.setattr(drawings, "heat_map", lambda *given: drawn.append(given) or plain(*given))
    for states, gamma, seed in itertools.product((4, 8), (0.5, 1.0), (0, 1, 2)):
        config = {"circuit": {"num_states": states}, "objective": {"fully_masked": gamma}, "seed": seed}
        metrics = [row("nats_left", states + seed, 0, 1, 1, "nats/problem", "test", head="any_order")]
        write_run(tmp_path / "grid" / f"{states},{gamma},{seed}", metrics, **config)
    assert main(["report", str(tmp_path)]) == 0
    expected = {(share, states): states + 1.0 for states in (4, 8) for share in (0.5, 1.0)}
    ((values, vertical, horizontal, quantity),) = drawn
    if vertical == "circuit.num_states":
        values = {(share, states): value for (states, share), value in values.items()}
    assert {vertical, horizontal} == {"circuit.num_states", "objective.fully_masked"}
    assert values == expected
    assert quantity.endswith("(mean of 3 seeds)")


def test_the_papers_number_stands_beside_ours_of_the_same_setting_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codd_lightning.evaluation import report
    from codd_lightning.evaluation.report.paper import Published, published

    assert published() == []  # none is shipped that was not checked against its table
    number = Published("Table 9", "strict_accuracy", 0.123, {"seed": 7}, {"decoder": "any_order", "steps_per_block": 4})
    monkeypatch.setattr(report, "published", lambda: [number])
    rows = two_decoders(better=20)[0]
    write_run(tmp_path / "same", rows, seed=7)
    write_run(tmp_path / "other", rows, seed=8)
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    lines = [line for line in text.splitlines() if "Table 9" in line]
    assert len(lines) == 1
    assert "12.30" in lines[0]
    assert "| same |" in lines[0]
    assert "50.0 (" in lines[0]


def test_nothing_that_a_run_says_becomes_markup(tmp_path: Path) -> None:
    rows, samples = two_decoders(better=20)
    hostile = [
        {**record, "response": HOSTILE, "prompt": HOSTILE, "pieces": [HOSTILE, "\ud800", "<!--"]} for record in samples
    ]
    strange = row("<b>name</b>", 1, 1, 1, 1, "u|nit", "test", decoder=HOSTILE, label="\ud800")
    write_run(tmp_path / "<script>alert(1)<" / "a", [*rows, strange], hostile, note="<script>alert(2)")
    write_run(tmp_path / "b", [*rows, strange], hostile, note="\u2028")
    assert main(["report", str(tmp_path), "--html"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert len(re.findall(r"(?i)<script", page)) == 2  # the data and the code
    assert len(re.findall(r"(?i)</script", page)) == 2
    assert not re.search(r"(?i)<img|<b>|<!--", page)
    assert not re.search(r"""(?i)(src|href)=["']?(https?:)?//""", page)
    data = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert data
    assert json.loads(data[1])["cells"][0]["samples"][0]["pieces"] == [HOSTILE, "?", "<!--"]


def test_settings_are_those_that_the_figures_were_measured_with(tmp_path: Path) -> None:
    for name, examples in (("a", 40), ("b", 30)):
        folder = write_run(tmp_path / name, [accuracy("factorized", 1, [True, False])])
        (folder / "config.yaml").write_text(f"evaluation:\n  examples: {examples}\n")
    again = [{"evaluation": {"examples": 12}}, {"evaluation": {"examples": 8}}, "not a measurement"]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({"measured_again": again}))
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    found = {number for number in ("8", "12", "30", "40") if f"evaluation.examples={number}" in text}
    assert found == {"8", "30"}


def test_what_none_beats_over_all_circuits(tmp_path: Path) -> None:
    def measured(value: float, passes: float, **labels: Any) -> dict[str, Any]:
        named = {"decoder": "any_order", "steps_per_block": 4, "nfe": passes, **labels}
        return row("strict_accuracy", value, value - 0.1, value + 0.1, 10, "fraction", "test", **named)

    rule = {"commit": "joint", "commit_bound": 0.5, "commit_reads": "circuit"}
    write_run(tmp_path / "plain", [measured(0.4, 4.0), measured(0.9, 8.0)])
    write_run(tmp_path / "other", [measured(0.5, 4.0, **rule), measured(0.8, 9.0)])  # without seconds
    assert main(["report", str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    table = report.partition("## What none beats")[2].partition("##")[0]
    lines = [line.split(" | ") for line in table.splitlines() if "any\\_order" in line or "any_order" in line]
    assert [(cells[1], cells[2]) for cells in lines] == [("4.0", "other"), ("8.0", "plain")]
    assert "joint" in lines[0][3]
