"""What experiments/rivals.yaml shows: the best setting of each circuit at each budget, and whether crossing helps.

    python benchmarks/rivals.py OUTPUTS

A setting (commit rule, bound or steps, order) is chosen on the problems of even number, among those that took at most
so many passes there; what is said of it is measured on the others: strict accuracy with its 95 % interval (Wilson),
passes, seconds. Differences are paired (bootstrap interval, McNemar's exact p), on those problems. The oracle is the
backbone alone at the most steps, one token each, in its better order.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from codd_lightning.evaluation import wilson
from codd_lightning.evaluation.paired import mcnemar, paired_difference
from codd_lightning.evaluation.report.runs import Record, collect
from codd_lightning.evaluation.rows import series_label

BUDGETS = (2, 4, 8, 16, 32)
Setting = list[Record]


def mean(records: Sequence[Record], label: str) -> float:
    return sum(record[label] for record in records) / len(records)


def chosen(settings: Sequence[Setting], budget: float, cost: str = "nfe") -> Setting | None:
    """The most accurate on even problems within a budget, of equals the cheapest; its odd problems."""
    halves = [([r for r in s if r["index"] % 2 == 0], [r for r in s if r["index"] % 2]) for s in settings]
    fitting = [(even, odd) for even, odd in halves if mean(even, cost) <= budget]
    if not fitting:
        return None
    return max(fitting, key=lambda pair: (mean(pair[0], "strict"), -mean(pair[0], cost)))[1]


def accuracy(setting: Setting | None) -> str:
    if setting is None:
        return ""
    right = sum(record["strict"] for record in setting)
    low, high = wilson(right, len(setting))
    return f"{100 * right / len(setting):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def named(setting: Setting | None) -> str:
    """A setting and its cost."""
    if setting is None:
        return ""
    first = setting[0]
    rule = series_label({**first, "decoder": first["remasking"], "remasking": "low_confidence", "eos": "any"})
    budget = f" @{first['steps_per_block']}" if first.get("commit") is None else ""
    return f"{rule}{budget}: {mean(setting, 'nfe'):.1f} passes, {1000 * mean(setting, 'seconds'):.0f} ms"


def difference(one: Setting | None, other: Setting | None) -> str:
    if one is None or other is None:
        return ""
    a, b = [r["strict"] for r in one], [r["strict"] for r in other]
    value, low, high = paired_difference(a, b)
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p {mcnemar(a, b):.1g}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    given = parser.parse_args()
    runs, warnings = collect(given.outputs, leave_out=Path("report"))
    print(*warnings, sep="\n")
    found = {
        run.name: [sorted(records, key=lambda record: record["index"]) for records in run.samples.values()]
        for run in runs
    }
    quota = {name: [s for s in settings if s[0].get("commit") is None] for name, settings in found.items()}
    rules = {name: [s for s in settings if s[0].get("commit") is not None] for name, settings in found.items()}
    factorized = next((name for name in found if "factorized" in name), None)
    if factorized is None:
        parser.error(f"{given.outputs} holds no finished run of circuit=factorized")
    passes = [f"at most {budget}" for budget in BUDGETS]
    ways = [(name, way, of[name]) for name in found for way, of in (("quota", quota), ("commit rule", rules))]
    cells = [[name, way, *(accuracy(chosen(of, budget)) for budget in BUDGETS)] for name, way, of in ways]
    most = max(setting[0]["steps_per_block"] for setting in quota[factorized])
    oracle = chosen([s for s in quota[factorized] if s[0]["steps_per_block"] == most], math.inf)
    table("Oracle", ["backbone alone, one token a step", ""], [[accuracy(oracle), named(oracle)]])
    table("Strict accuracy, %, by passes a sample", ["circuit", "", *passes], cells)
    cells = [[name, way, *(named(chosen(of, budget)) for budget in BUDGETS)] for name, way, of in ways]
    table("Chosen", ["circuit", "", *passes], cells)
    cells = []
    for name in found:
        if name == factorized:
            continue
        for budget in BUDGETS:
            best = chosen(rules[name], budget)
            others = (chosen(quota[name], budget), chosen(found[factorized], budget))
            cells.append([name, f"{budget}", *(difference(best, other) for other in others)])
    header = ["circuit, best rule", "passes", "less its best quota", "less the best of factorized"]
    table("Whether crossing helps, percentage points", header, cells)
    seconds = (0.02, 0.05, 0.1, 0.2, 0.4)
    cells = [
        [name, *(accuracy(chosen(settings, budget, "seconds")) for budget in seconds)]
        for name, settings in found.items()
    ]
    table("Strict accuracy, %, by seconds a sample", ["circuit", *(f"at most {s}" for s in seconds)], cells)


if __name__ == "__main__":
    main()
