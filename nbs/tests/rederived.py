"""Every verdict once more from the exported rows, by pandas and scipy alone: nothing of LlmForge is imported.
`python nbs/tests/rederived.py outputs` prints them."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats


def rows(folder):
    "An experiment's rows: question, gold passages, scores; a failed one has none."
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame(
        {
            "question": r["example_id"],
            "gold": r["trace"]["attributes"].get("gold", []),
            "failed": r["error_type"] is not None,
            "scores": r["scores"] or {},
        }
        for r in lines
    )


def folder_of(outputs, id):
    "Where an experiment's rows are: under its id, or under another name with the same work."
    digits = id.rsplit("-", 1)[1]
    return next(f for f in (outputs / id, *sorted(outputs.glob(f"*-{digits}"))) if f.is_dir())


def values(frame, metric, answer_score):
    "A row's value; a failed answer is wrong, a failed measurement is none."
    if metric in ("accuracy", "exact_match", "f1", "contains"):
        score = answer_score if metric == "accuracy" else metric
        return [0.0 if lost else s[score] for lost, s in zip(frame.failed, frame.scores)]
    return [None if lost else s.get(metric) for lost, s in zip(frame.failed, frame.scores)]


def side(outputs, plan, arm, datasets, metric):
    "The values of an arm by data set and question, with gold passages."
    frames = []
    for key, id in plan["experiments"].items():
        name, data, _ = key.split("/")
        if name == arm and data in datasets:
            folder = folder_of(outputs, id)
            answer_score = json.loads((folder / "result.json").read_text())["result"]["summary"][
                "accuracy_is"
            ]
            frame = rows(folder)
            frames.append(frame.assign(data=data, value=values(frame, metric, answer_score)))
    return pd.concat(frames).set_index(["data", "question"])


def groups(frame):
    "For each question the gold passage that most questions share; its own name where it has none."
    gold = {place: [f"{place[0]} {p}" for p in passages] for place, passages in frame.gold.items()}
    shared = Counter(p for passages in gold.values() for p in set(passages))
    most = {place: max(ps, key=lambda p: (shared[p], p)) if ps else place[1] for place, ps in gold.items()}
    return pd.Series(most).reindex(frame.index)


def spread(d, group):
    "Mean, standard error and degrees of freedom of the differences with two imagined groups."
    of = pd.DataFrame({"d": d, "group": group}).groupby("group").d.agg(["sum", "count"])
    size, differ = of["count"].mean(), d[d != 0]
    ordinary = np.sqrt((differ**2).mean()) if len(differ) else 1.0
    sums = np.r_[of["sum"], size * ordinary, -size * ordinary]
    counts = np.r_[of["count"], size, size]
    k, mean = len(sums), sums.sum() / counts.sum()
    error = np.sqrt(k / (k - 1) * ((sums - mean * counts) ** 2).sum()) / counts.sum()
    return mean, error, k - 1


def holm_levels(ps, alpha):
    levels, stopped = np.zeros(len(ps)), False
    for rank, i in enumerate(np.argsort(ps, kind="stable")):
        level = level if stopped else alpha / (len(ps) - rank)  # noqa: F821
        stopped |= ps[i] > level
        levels[i] = level
    return levels


def family(ps, study):
    "The level of each test, and the corrected p, of a family of claims."
    if study["correction"] != "holm":
        return [study["alpha"]] * len(ps), ps
    ranks = pd.Series(ps).rank(method="first")
    return holm_levels(ps, study["alpha"]), [
        min(1.0, max(p * (len(ps) + 1 - rank) for p, rank in zip(ps, ranks) if rank <= own)) for own in ranks
    ]


def verdict(h, mean, low, high):
    sign = 1 if h["direction"] == "higher" else -1
    low, mean, high = sorted(round(sign * x, 12) for x in (low, mean, high))
    claimed = -h["margin"] if h["margin"] else h["min_effect"]
    if high < claimed:
        return "refuted"
    beyond = low > (-h["margin"] if h["margin"] else 0)
    return "supported" if beyond and (h["margin"] or mean >= claimed) else "inconclusive"


def rederived(outputs, name):
    "The verdicts of a published study: id -> n, difference, interval, p, corrected p, verdict."
    plan = json.loads((outputs / f"study-{name}" / "plan.json").read_text())["plan_json"]
    study, tests = plan["study"], []
    for h in study["hypotheses"]:
        datasets = h["datasets"] or list(study["datasets"])
        control, treatment = (
            side(outputs, plan, h[a], datasets, h["metric"]) for a in ("control", "treatment")
        )
        d = (treatment.value.astype(float) - control.value.astype(float)).round(12)
        known = d.notna()
        mean, error, df = spread(d[known], groups(control)[known])
        if h["margin"]:
            away = mean + h["margin"] if h["direction"] == "higher" else h["margin"] - mean
            p = stats.t.sf(away / error, df)
        else:
            p = 2 * stats.t.sf(abs(mean) / error, df)
        tests.append((h, d[known].mean(), int(known.sum()), mean, error, df, p))
    ps = [t[-1] for t in tests]
    result = {}
    for (h, seen, n, mean, error, df, p), level, q in zip(tests, *family(ps, study)):
        half = stats.t.ppf(1 - (level if h["margin"] else level / 2), df) * error
        low, high = max(-1, mean - half), min(1, mean + half)
        result[h["id"]] = (n, seen, low, high, p, q, verdict(h, seen, low, high))
    return result


def rate(turn, measure):
    "What an arm did for a second in one round; failed questions count for nothing."
    done = turn["questions"] - turn["failed"]
    of = {"questions_per_s": (done, "seconds"), "questions_per_cpu_s": (done, "cpu_s")}
    amount, time = of.get(measure, (turn["tokens_out"], "seconds"))
    return amount / turn[time]


def texts(outputs, plan, arm):
    "What an arm wrote, by data set, seed and question."
    found = {}
    for key, id in plan["experiments"].items():
        name, data, seed = key.split("/")
        if name == arm:
            lines = (folder_of(outputs, id) / "runs.jsonl").read_text(encoding="utf-8").splitlines()
            found |= {(data, seed, r["example_id"]): r["output_text"] for r in map(json.loads, lines)}
    return pd.Series(found)


def rederived_speed(outputs, name):
    "The verdicts on claims about speed: id -> rounds, ratio, interval, p, corrected p, verdict."
    folder = outputs / f"study-{name}"
    plan, tests, result = json.loads((folder / "plan.json").read_text())["plan_json"], [], {}
    claims = plan["study"].get("speed", [])
    lines = (folder / "rounds.jsonl").read_text().splitlines() if claims else []
    turns = {(t["arm"], t["data"], t["number"]): t for t in map(json.loads, lines) if "seconds" in t}
    for c in claims:
        own, other = (
            pd.Series({key[1:]: rate(t, c["measure"]) for key, t in turns.items() if key[0] == c[arm]})
            for arm in ("treatment", "control")
        )
        logs = np.log(own / other).dropna()
        tests.append((c, logs, stats.ttest_1samp(logs, np.log(c["at_least"]))))
    ps = [test.pvalue for *_, test in tests]
    for (c, logs, test), level, q in zip(tests, *family(ps, plan["study"])):
        low, high = np.exp(test.confidence_interval(1 - level))
        same = (texts(outputs, plan, c["treatment"]) == texts(outputs, plan, c["control"])).mean()
        others = max(t["others"] for t in turns.values() if t["arm"] in (c["treatment"], c["control"]))
        if len(logs) < 3 or others > 0.1:
            word = "inconclusive"
        elif same < c.get("identical", 1.0) or high < c["at_least"]:
            word = "refuted"
        else:
            word = "supported" if low >= c["at_least"] else "inconclusive"
        result[c["id"]] = (len(logs), np.exp(logs.mean()), low, high, test.pvalue, q, word)
    return result


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for folder in sorted(root.glob("study-*")):
        study = folder.name.removeprefix("study-")
        for id, (n, seen, low, high, p, q, word) in rederived(root, study).items():
            interval = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
            print(f"{study} {id}: {100 * seen:+.1f} {interval}, p {p:.3f}, corrected {q:.3f}, n {n}: {word}")
        for id, (n, ratio, low, high, p, q, word) in rederived_speed(root, study).items():
            times = f"{ratio:.2f} times [{low:.2f}, {high:.2f}]"
            print(f"{study} {id}: {times}, p {p:.3f}, corrected {q:.3f}, {n} rounds: {word}")
