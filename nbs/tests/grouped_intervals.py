"""How wide the interval of grouped questions has to be: the one in use, and a narrower one, not taken, whose
imagined groups are as large as groups' sums were, with four worst cases added. Right-or-wrong scores, 4,000
studies a cell. `python nbs/tests/grouped_intervals.py` prints the design note's table (a minute)."""

import itertools

import numpy as np
from scipy.stats import t

EDGES = (0, 6, 12, 25, 50, 10**9)
WORST = 4  # imagined groups that went together entirely


def sums(rng, k, size, differ, bias, together, draws):
    "Of each group's differences, a row a study; groups of one size."
    chance = [differ * (1 - bias) / 2, 1 - differ, differ * (1 + bias) / 2]
    own, shared = (rng.choice([-1, 0, 1], p=chance, size=(draws, k, m)).astype(np.int8) for m in (size, 1))
    return np.where(rng.random((draws, k, size)) < together, shared, own).sum(-1)


def ends(found, size, imagined):
    "The 95% intervals, with one imagined group won and one lost of these sums."
    k = found.shape[1] + 2
    n, total = k * size, found.sum(1)
    mean = total / n
    squares = (found**2).sum(1) + 2 * imagined**2 - total**2 / k
    half = t.ppf(0.975, k - 1) * np.sqrt(k / (k - 1) * squares) / n
    return np.maximum(-1, mean - half), np.minimum(1, mean + half)


def cell(k, size, differ, bias, together, draws=4000):
    "Groups that differ, on average; coverage of the interval in use and of the narrower; widths of both."
    rng, truth = (
        np.random.default_rng([k, size, *(round(100 * x) for x in (differ, bias, together))]),
        differ * bias,
    )
    found = np.concatenate([sums(rng, k, size, differ, bias, together, 500) for _ in range(draws // 500)])
    differing = (found != 0).sum(1)
    smaller = np.sqrt(((found**2).sum(1) + WORST * size**2) / (differing + WORST))
    both = [ends(found, size, imagined) for imagined in (size, smaller)]
    held = [float(((low <= truth) & (truth <= high)).mean()) for low, high in both]
    return float(differing.mean()), *held, *(float((high - low).mean()) for low, high in both)


def line(held):
    inside = sum(0.93 <= share <= 0.97 for share in held) / len(held)
    return f"{min(held):.3f} | {np.median(held):.3f} | {max(held):.3f} | {inside:.0%}"


def main():
    grid = itertools.product(
        (20, 60, 200, 500), (2, 5, 10), (0.02, 0.05, 0.1, 0.3), (0, 0.5, 1), (0, 0.3, 0.7, 1)
    )
    cells = [cell(n // size, size, *rest) for n, size, *rest in grid if n // size >= 4]
    heads = [
        f"{what}, {name}"
        for name in ("in use", "narrower")
        for what in ("lowest", "median", "highest", "inside")
    ]
    print("| groups that differ | cells | " + " | ".join(heads) + " | width |")
    print("|---" * (len(heads) + 3) + "|")
    for low, high in itertools.pairwise(EDGES):
        own = [c for c in cells if low <= c[0] < high]
        name = f"{low} to {high}" if high < EDGES[-1] else f"{low} or more"
        parts = [line([c[at] for c in own]) for at in (1, 2)]
        ratio = np.mean([c[4] / c[3] for c in own])
        print(f"| {name} | {len(own)} | {' | '.join(parts)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
