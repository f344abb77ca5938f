// The paired difference of two experiments, as `llmforge compare` computes it: a twin of llmforge/paired.py, whose
// lesson gives the reasons. A test holds the two together, number by number.
"use strict";

(() => {
  // NumPy adds in eight strands and in halves; the same order gives the same last digit.
  const sum = (x, from = 0, n = x.length) => {
    if (n > 128) { const half = Math.floor(n / 16) * 8; return sum(x, from, half) + sum(x, from + half, n - half); }
    let i = 0, total = 0;
    if (n >= 8) {
      const r = x.slice(from, from + 8);
      for (i = 8; i < n - n % 8; i += 8) for (let j = 0; j < 8; j++) r[j] += x[from + i + j];
      total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    }
    for (; i < n; i++) total += x[from + i];
    return total;
  };
  const mean = x => sum(x) / x.length;

  const whole = v => { const r = Math.round(v); return Math.abs(v % 1) === 0.5 && r % 2 ? r - 1 : r; }; // halves to the even one

  // The continued fraction of the incomplete beta function, by Lentz's method.
  function fraction(a, b, x) {
    const tiny = 1e-300, kept = v => Math.abs(v) < tiny ? tiny : v;
    let c = 1, d = 1 / kept(1 - (a + b) * x / (a + 1)), value = d;
    for (let m = 1; m < 10000; m++) {
      const even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
      for (const k of [even, odd]) { d = 1 / kept(1 + k * d); c = kept(1 + k / c); value *= c * d; }
      if (Math.abs(c * d - 1) < 1e-16) break;
    }
    return value;
  }

  const ratios = new Map(); // degrees of freedom -> Γ((df + 1) / 2) / Γ(df / 2)
  function ratio(df) {
    if (!ratios.has(df)) {
      let r = df % 2 ? 1 / Math.sqrt(Math.PI) : Math.sqrt(Math.PI) / 2;
      for (let k = df % 2 ? 1 : 2; k < df; k += 2) r *= (k + 1) / k;
      ratios.set(df, r);
    }
    return ratios.get(df);
  }

  // The chance that Student's t of so many degrees of freedom is above t, which is 0 or more.
  function tail(df, t) {
    const a = df / 2, rest = t * t / (df + t * t), x = df / (df + t * t);
    const front = Math.exp(-a * Math.log1p(t * t / df)) * Math.sqrt(rest) * ratio(df) / Math.sqrt(Math.PI);
    if (x < (a + 1) / (a + 2.5)) return front * fraction(a, 0.5, x) / a / 2;
    return (1 - 2 * front * fraction(0.5, a, rest)) / 2;
  }

  function quantile(df, share) {
    let low = 0, high = 1;
    while (tail(df, high) > 1 - share) high *= 2;
    for (let i = 0; i < 200; i++) {
      const middle = (low + high) / 2;
      if (middle === low || middle === high) break;
      if (tail(df, middle) > 1 - share) low = middle; else high = middle;
    }
    return (low + high) / 2;
  }

  // b - a over the same questions, each of a group; the interval and p of `Spread`.
  function paired(x, y, groups, confidence) {
    const n = x.length;
    if (!n) return {a: null, b: null, value: null, low: null, high: null, p: null, test: "paired t", wins: 0, losses: 0, n: 0};
    const d = y.map((v, i) => whole((v - x[i]) * 1e12) / 1e12), bounded = [...x, ...y].every(v => v >= 0 && v <= 1);
    const numbers = new Map();
    for (const g of groups) if (!numbers.has(g)) numbers.set(g, numbers.size);
    const alone = numbers.size === n, sums = new Array(numbers.size).fill(0), sizes = new Array(numbers.size).fill(0);
    d.forEach((v, i) => { const g = numbers.get(groups[i]); sums[g] += v; sizes[g]++; });
    const differing = d.filter(v => v !== 0), size = differing.length ? Math.sqrt(mean(differing.map(v => v * v))) : Number(bounded);
    const more = mean(sizes);
    sums.push(more * size, -more * size);
    sizes.push(more, more);
    const k = sums.length, all = sum(sizes), middle = sum(sums) / all;
    const error = Math.sqrt(k / (k - 1) * sum(sums.map((v, i) => (v - middle * sizes[i]) ** 2)) / all ** 2);
    const half = quantile(k - 1, (1 + confidence) / 2) * error, limit = bounded ? 1 : Infinity;
    const beyond = error ? tail(k - 1, Math.abs(middle / error)) : 0.5;
    return {
      a: mean(x), b: mean(y), value: mean(d), low: Math.max(-limit, middle - half), high: Math.min(limit, middle + half),
      p: Math.min(1, 2 * beyond), test: alone ? "paired t" : "grouped t", n,
      wins: d.filter(v => v > 0).length, losses: d.filter(v => v < 0).length,
    };
  }

  // The p values of a family, adjusted by Holm's method.
  function holm(ps) {
    const order = ps.map((p, i) => i).sort((i, j) => ps[i] - ps[j]), adjusted = [];
    let least = 0;
    order.forEach((i, rank) => { least = Math.max(least, ps[i] * (ps.length - rank)); adjusted[i] = Math.min(1, least); });
    return adjusted;
  }

  // A number with so many digits, a half to the even one as Python does it; never -0.0.
  function fixed(x, digits) {
    const long = Math.abs(x).toFixed(100), at = long.indexOf(".") + 1 + digits, down = long.slice(0, digits ? at : at - 1);
    const tie = /^50*$/.test(long.slice(at)) && Number(down.at(-1)) % 2 === 0;
    const text = tie ? down : Math.abs(x).toFixed(digits);
    return x < 0 && Number(text) ? `−${text}` : text;
  }

  // Two significant digits, as Python's .2g writes them.
  function brief(p) {
    if (!p) return "0";
    const [digits, power] = p.toExponential(1).split("e").map(Number);
    if (power < -4) return `${digits}e-${String(-power).padStart(2, "0")}`;
    return String(Number(fixed(p, 1 - power)));
  }

  (window.llmforge ??= {}).statistics = {paired, holm, fixed, brief};
})();
