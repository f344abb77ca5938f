"""How often an interval of a paired difference holds the truth. `python nbs/tests/intervals.py`
prints the table of the design note on intervals (two minutes)."""

import itertools

import numpy as np

from llmforge.paired import _Pairs, _spread

GRADED = (1 / 3, 1 / 2, 2 / 3, 1.0)  # sizes of a difference in F1


def drawn(rng, n, size, differ, bias, together, sizes):
    "Differences of one study with a known true mean, in groups whose questions go together or do not."
    k = -(-n // size)
    chance = [differ * (1 + bias) / 2, differ * (1 - bias) / 2, 1 - differ]
    own, shared = (rng.choice([1, -1, 0], p=chance, size=(k, m)) for m in (size, 1))
    signs = np.where(rng.random((k, size)) < together, shared, own).reshape(-1)[:n]
    return signs * rng.choice(sizes, n)


def coverage(
    n,  # questions
    size,  # of a group
    differ,  # share of questions on which the two systems differ
    bias,  # 0: wins and losses are as likely; 1: wins only
    together,  # how often a question goes with its group
    sizes=(1.0,),  # of a difference
    draws=400,
):
    "The share of 95% intervals that hold the true difference."
    rng, held = np.random.default_rng([n, size, round(1000 * differ), round(10 * together)]), 0
    truth = differ * bias * float(np.mean(sizes))
    groups = np.arange(n) // size if size > 1 else None
    for _ in range(draws):
        d = drawn(rng, n, size, differ, bias, together, sizes)
        low, high = _spread(_Pairs(np.maximum(-d, 0), np.maximum(d, 0), d, groups)).interval(0.95)
        held += low <= truth <= high
    return held / draws


def cases(n, sizes=(1, 3, 10)):
    "The grid for n questions: group size, share that differs, bias, how often groups go together."
    balance = ((0, 0), (1, 0), (0.5, 0.7), (1, 1))
    for size, differ, (bias, together) in itertools.product(sizes, (0.0, 0.02, 0.1, 0.3), balance):
        if n // size >= 4 and (size > 1 or not together):
            yield size, differ, bias, together


def main():
    print("| questions | scores | cells | lowest | median | highest |\n|---|---|---|---|---|---|")
    for n in (8, 20, 60, 200, 500):
        for name, sizes in (("right or wrong", (1.0,)), ("graded", GRADED)):
            grid = [coverage(n, *case, sizes=sizes, draws=1000) for case in cases(n, (1, 2, 5, 10))]
            numbers = f"{min(grid):.3f} | {np.median(grid):.3f} | {max(grid):.3f}"
            print(f"| {n} | {name} | {len(grid)} | {numbers} |")


if __name__ == "__main__":
    main()
