"""Intervals, tests, power and estimators from scipy, statsmodels and exact rational arithmetic.

Writes test/golden/statistics.json.
Run: python test/reference/statistics_reference.py   (pins: test/reference/requirements-eval.txt)
"""
import itertools
import json
import math
import pathlib

import numpy as np
from fractions import Fraction
from scipy import integrate, optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


def wilson():
    for successes, n in ((0, 1), (1, 1), (0, 20), (20, 20), (3, 10), (153, 512), (1144, 1319), (1, 1319), (500, 1000)):
        low, high = proportion_confint(successes, n, alpha=0.05, method="wilson")
        yield {"successes": successes, "n": n, "interval": [float(low), float(high)]}


def mid_p():
    """statsmodels' exact McNemar p less the probability of the table seen (Fagerland, Lydersen & Laake 2013, eq. 4)."""
    pairs = ((0, 1), (1, 0), (0, 5), (5, 0), (1, 8), (8, 3), (12, 30), (30, 12), (40, 61), (100, 131), (3, 90), (700, 801))
    for b, c in pairs:
        exact = mcnemar([[0, b], [c, 0]], exact=True).pvalue
        yield {"b": b, "c": c, "p": float(exact - stats.binom.pmf(min(b, c), b + c, 0.5))}


def t_intervals():
    for values in (
        [0.02, 0.05],
        [0.01, -0.02, 0.04],
        [0.031, 0.042, 0.018, 0.055, 0.027],
        [-0.1, 0.12, 0.03, -0.04, 0.06, 0.0, -0.01],
        [0.3, 0.31, 0.29, 0.305, 0.302],
        [0.01 * math.sin(i) + 0.002 for i in range(1, 31)],
    ):
        mean, sem, df = np.mean(values), stats.sem(values), len(values) - 1
        low, high = stats.t.interval(0.95, df, loc=mean, scale=sem)
        p = stats.ttest_1samp(values, 0).pvalue
        yield {"values": values, "mean": float(mean), "interval": [float(low), float(high)], "p": float(p)}


def t_quantiles():
    for df, p in itertools.product((1, 2, 3, 4, 5, 9, 29, 100), (0.6, 0.9, 0.975, 0.9875, 0.9995)):
        yield {"df": df, "p": p, "t": float(stats.t.ppf(p, df))}


def power(effect, n):
    """Two-sided 5 % one-sample t test. By quadrature: scipy's nct.cdf gives NaN in the far tail."""
    df = n - 1
    critical, delta = stats.t.ppf(0.975, df), effect * math.sqrt(n)

    def rejected(s):  # s = chi / sqrt(df)
        tails = stats.norm.sf(critical * s - delta) + stats.norm.cdf(-critical * s - delta)
        return tails * stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df)

    edge = delta / critical
    return sum(integrate.quad(rejected, *ends, epsabs=1e-13, limit=200)[0] for ends in ((0, edge), (edge, 40)))


def detectable_seeds():
    """In standard deviations of the differences."""
    for n in (2, 3, 4, 5, 8, 10, 20):
        effect = optimize.brentq(lambda d: power(d, n) - 0.8, 1e-3, 15, xtol=1e-13)
        yield {"seeds": n, "effect": float(effect)}


def detectable_pairs():
    """Connor (1987), the smallest difference that n pairs with this share of discordant ones show with power 0.8."""
    z_alpha, z_beta = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    for n, discordant in ((512, 0.3), (512, 0.05), (1319, 0.1), (1319, 0.02), (200, 0.5)):
        def shortfall(d):
            return z_alpha * math.sqrt(discordant) + z_beta * math.sqrt(discordant - d * d) - d * math.sqrt(n)
        yield {"n": n, "discordant": discordant, "difference": optimize.brentq(shortfall, 0, discordant, xtol=1e-14)}


def holm():
    for p in ([0.01, 0.04], [0.04, 0.01, 0.03, 0.5], [0.2], [0.6, 0.9, 0.5], [0.001, 0.001, 0.04, 0.02, 0.03, 1.0]):
        yield {"p": p, "adjusted": [float(q) for q in multipletests(p, method="holm")[1]]}


def pass_at_k():
    """Chen et al. (2021), eq. 1, in exact fractions."""
    for n, c, k in ((1, 0, 1), (1, 1, 1), (10, 3, 1), (10, 3, 5), (10, 3, 8), (200, 7, 100), (200, 100, 10), (64, 1, 32), (5, 0, 5)):
        yield {"n": n, "c": c, "k": k, "pass": float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))}


def bootstrap():
    """scipy's percentile bootstrap of the mean; the test allows for the Monte Carlo error of both sides."""
    for only_a, only_b, both in ((20, 45, 135), (5, 5, 40), (0, 30, 70)):
        values = np.array([-1] * only_a + [1] * only_b + [0] * both)
        result = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(0))
        low, high = result.confidence_interval
        yield {"only_a": only_a, "only_b": only_b, "both": both, "interval": [float(low), float(high)]}


parts = (wilson, mid_p, t_intervals, t_quantiles, detectable_seeds, detectable_pairs, holm, pass_at_k, bootstrap)
path = pathlib.Path(__file__).parent.parent / "golden" / "statistics.json"
golden = {part.__name__: list(part()) for part in parts}
lines = (f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]" for name, cases in golden.items())
path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(f"{path.name}: {sum(map(len, golden.values()))} cases")
