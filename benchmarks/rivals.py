"""What experiments/rivals.yaml shows: the best setting of each circuit at each budget, and whether crossing helps.

    python benchmarks/rivals.py OUTPUTS

A setting (commit rule, bound or steps, order) is chosen on the problems of even number, among those that took at most
so many passes there; what is said of it is measured on the others: strict accuracy with its 95 % interval (Wilson),
passes, seconds. Differences are paired (bootstrap interval, McNemar's exact p), on those problems.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from codd_lightning.evaluation import wilson
from codd_lightning.evaluation.paired import mcnemar, paired_difference
from codd_lightning.evaluation.report.runs import Record, collect
from codd_lightning.evaluation.rows import series_label

BUDGETS = (2, 4, 8, 16, 32, 64)
Setting = list[Record]


def mean(records: Sequence[Record], label: str) -> float:
    return sum(record[label] for record in records) / len(records)


def chosen(settings: Sequence[Setting], budget: float) -> Setting | None:
    """The most accurate on even problems within a budget of passes, of equals the cheapest; its odd problems."""
    halves = [([r for r in s if r["index"] % 2 == 0], [r for r in s if r["index"] % 2]) for s in settings]
    fitting = [(even, odd) for even, odd in halves if mean(even, "nfe") <= budget]
    if not fitting:
        return None
    return max(fitting, key=lambda pair: (mean(pair[0], "strict"), -mean(pair[0], "nfe")))[1]


def said(setting: Setting | None) -> str:
    if setting is None:
        return ""
    right = sum(record["strict"] for record in setting)
    low, high = wilson(right, len(setting))
    steps = f" @{setting[0]['steps_per_block']}" if setting[0].get("commit") is None else ""
    name = series_label(setting[0]).removeprefix("any_order_").replace("eos_last_", "").removesuffix("_eos_last")
    where = f"{name}{steps}, {mean(setting, 'nfe'):.1f} passes, {1000 * mean(setting, 'seconds'):.0f} ms"
    return f"{100 * right / len(setting):.1f} ({100 * low:.1f}–{100 * high:.1f}) {where}"


def difference(one: Setting | None, other: Setting | None) -> str:
    if one is None or other is None:
        return ""
    a, b = [r["strict"] for r in one], [r["strict"] for r in other]
    value, low, high = paired_difference(a, b)
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p {mcnemar(a, b):.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    runs, warnings = collect(parser.parse_args().outputs, leave_out=Path("report"))
    print(*warnings, sep="\n")
    all_settings = {
        str(run.config["circuit._target_"]).rpartition(".")[2]: [
            sorted(records, key=lambda record: record["index"]) for records in run.samples.values()
        ]
        for run in runs
    }
    for name, settings in all_settings.items():
        quota = [setting for setting in settings if setting[0].get("commit") is None]
        print(f"\n{name}\n| passes at most | quota | any rule | rule less quota |\n|---|---|---|---|")
        for budget in BUDGETS:
            by_quota, best = chosen(quota, budget), chosen(settings, budget)
            print(f"| {budget} | {said(by_quota)} | {said(best)} | {difference(best, by_quota)} |")
    alone = all_settings.pop("Factorized")
    print("\n| passes at most | best of a circuit | | less factorized with any rule |\n|---|---|---|---|")
    coupled = [(name, setting) for name, settings in all_settings.items() for setting in settings]
    for budget in BUDGETS:
        best = chosen([setting for _, setting in coupled], budget)
        owner = next((name for name, setting in coupled if best is not None and best[0] in setting), "")
        print(f"| {budget} | {owner} | {said(best)} | {difference(best, chosen(alone, budget))} |")


if __name__ == "__main__":
    main()
