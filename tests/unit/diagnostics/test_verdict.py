import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from distmc.diagnostics import Summary, summarise, verdict

Arrays = dict[str, np.ndarray[Any, Any]]
AsTree = Callable[..., xr.DataTree]


@pytest.fixture
def good(draws: Arrays, stats: Arrays, as_tree: AsTree) -> Summary:
    return summarise(as_tree(draws, stats))


def with_value(summary: Summary, **changes: float) -> Summary:
    first, *others = summary.parameters
    return dataclasses.replace(summary, parameters=(dataclasses.replace(first, **changes), *others))


def test_independent_draws_are_good(good: Summary) -> None:
    judged = verdict(good)
    assert judged.level == "good"
    assert judged.findings == ()
    assert str(judged) == "Good: nothing speaks against these draws."


@pytest.mark.parametrize(
    ("changes", "level", "what"),
    [
        ({"rhat": 1.4}, "bad", "R-hat 1.40 for rate (1 of 7 values above 1.01): chains disagree."),
        ({"rhat": np.inf}, "bad", "R-hat inf for rate (1 of 7 values above 1.01): chains disagree."),
        ({"rhat": np.nan}, "bad", "R-hat is not a number for rate (1 of 7 values above 1.01)"),
        ({"rhat": 1.03}, "doubtful", "R-hat 1.030 for rate (1 of 7 values above 1.01): chains have not been compared"),
        ({"ess_bulk": 350.0}, "doubtful", "The bulk ESS is 350 for rate; 400 are needed"),
        ({"ess_tail": 12.0}, "bad", "The tail ESS is 12 for rate; 400 are needed"),
    ],
)
def test_each_weakness_has_words_and_a_remedy(good: Summary, changes: dict[str, float], level: str, what: str) -> None:
    judged = verdict(with_value(good, **changes))
    assert judged.level == level
    (finding,) = judged.findings
    assert finding.what.startswith(what)
    assert finding.remedy
    assert what in str(judged)
    assert f"Try: {finding.remedy}" in str(judged)


@pytest.mark.parametrize(
    ("ess", "num_chains", "level"), [(350.0, 32, "doubtful"), (300.0, 32, "bad"), (300.0, 8, "doubtful")]
)
def test_too_few_effective_draws_of_each_chain_are_bad(good: Summary, ess: float, num_chains: int, level: str) -> None:
    (finding,) = verdict(dataclasses.replace(with_value(good, ess_tail=ess), num_chains=num_chains)).findings
    assert finding.level == level
    assert ("may remember its start" in finding.what) == (level == "bad")


def test_many_chains_may_be_short(good: Summary) -> None:
    assert verdict(dataclasses.replace(good, num_chains=1000)).level == "good"


@pytest.mark.parametrize(("number", "level"), [(1, "doubtful"), (200, "bad")])
def test_divergences_are_told(good: Summary, number: int, level: str) -> None:
    judged = verdict(dataclasses.replace(good, num_divergent=number))
    assert judged.level == level
    assert judged.findings[0].what.startswith(f"{number} of 2,000 trajectories diverged")
    assert "target_acceptance_rate" in judged.findings[0].remedy
    assert "not finite" not in judged.findings[0].what
    judged = verdict(dataclasses.replace(good, num_divergent=number, num_nonfinite=1))
    assert "; 1 met a log-density or gradient that is not finite)" in judged.findings[0].what


def test_energies_that_hardly_change_are_told(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    rng = np.random.default_rng(7)
    stats["energy"] = rng.normal(size=stats["lp"].shape)
    assert verdict(summarise(as_tree(draws, stats))).level == "good"
    stats["energy"][:5] = np.cumsum(stats["energy"][:5], axis=1)
    stats["energy"][7] = 3.0
    (finding,) = verdict(summarise(as_tree(draws, stats))).findings
    assert finding.level == "doubtful"
    assert finding.what.startswith("The energy changes little from draw to draw (E-BFMI 0.")
    assert "non-centred" in finding.remedy


def test_suspicious_chains_come_with_their_sign(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["lp"][3] -= 500.0
    judged = verdict(summarise(as_tree(draws, stats)))
    assert judged.level == "bad"
    assert judged.findings[0].what.startswith("Chain 3 has a mean log-density")


def test_many_suspicious_chains_are_named_in_short(draws: Arrays, as_tree: AsTree) -> None:
    for array in draws.values():
        array[:7] = array[:7, :1]
    text = str(verdict(summarise(as_tree(draws))))
    assert "likewise chains 5, 6 (7 of 8)" in text


def test_bad_findings_come_first(good: Summary) -> None:
    judged = verdict(dataclasses.replace(with_value(good, ess_bulk=350.0, ess_tail=3.0), num_divergent=500))
    assert [finding.level for finding in judged.findings] == ["bad", "bad", "doubtful"]


def test_a_handful_of_draws_tells_nothing(draws: Arrays, as_tree: AsTree) -> None:
    short = {name: array[:, :3] for name, array in draws.items()}
    judged = verdict(summarise(as_tree(short)))
    assert judged.level == "bad"
    assert [finding.what for finding in judged.findings] == [
        "There are 3 draws of each chain, too few to tell anything."
    ]


def test_a_run_of_constants_is_not_an_error(as_tree: AsTree) -> None:
    """All chains frozen at one value: nothing varies, and each of them is named as stuck."""
    judged = verdict(summarise(as_tree({"x": np.ones((4, 50))})))
    assert judged.level == "bad"
    assert "Chain 0 never accepted a proposal" in str(judged)


def test_a_verdict_pickles(good: Summary) -> None:
    judged = verdict(with_value(good, rhat=1.4))
    assert pickle.loads(pickle.dumps(judged)) == judged
