"""The reference set: the default sampler finds every answer, the others find it or say that they have not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import distmc
from distmc.samplers import SAMPLERS
from distmc.testing.moments import require_moments
from distmc.zoo.answers import Answer
from distmc.zoo.reference import hidden_markov, hierarchies, series
from distmc.zoo.reference.catalogue import PROBLEMS
from distmc.zoo.reference.problem import Problem
from distmc.zoo.reference.quadrature import moments_on_grid

MOST_SCORED = 100
# Beside the default: those that files of their own try on known posteriors.
TRIED = ("ChEES", "MAMS", "LAPS", "RWMH", "Slice")


def sampled(problem: Problem, sampler: str | None = None) -> Any:
    return distmc.sample(problem.model, problem.data, sampler=sampler, progress=False)


def scored(tree: Any, answers: Mapping[str, Answer]) -> tuple[Any, Mapping[str, Answer]]:
    """Return at most `MOST_SCORED` elements of each vector, evenly spaced; error estimates take their time."""
    posterior, few = {}, {}
    for name, answer in answers.items():
        every = (slice(None, None, -(-answer.mean.size // MOST_SCORED)),) * answer.mean.ndim
        posterior[name] = tree["posterior"][name][:, :, *every]
        few[name] = Answer(answer.mean[every], answer.sd[every])
    return {"posterior": posterior}, few


# The default sampler --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "centred-funnel"])
def test_default_sampler_finds_the_answer(name: str) -> None:
    problem = PROBLEMS[name]()
    assert problem.is_within_reach
    tree = sampled(problem)
    require_moments(*scored(tree, problem.answers))
    # Nor is anything that is right called bad.
    assert distmc.verdict(tree).level != "bad"


def test_centred_funnel_ends_in_a_loud_warning() -> None:
    problem = PROBLEMS["centred-funnel"]()
    tree = sampled(problem)
    with pytest.raises(AssertionError, match="not the exact one"):
        require_moments(tree, problem.answers)
    verdict = distmc.verdict(tree)
    assert verdict.level == "bad"
    text = str(verdict)
    assert text.startswith("Bad: do not use these draws as they are.")
    assert "diverged" in text
    assert "non-centred" in text


def test_centred_funnel_is_bad_without_energies_too() -> None:
    problem = PROBLEMS["centred-funnel"]()
    tree = sampled(problem, "MAMS")
    assert "energy" not in tree["sample_stats"]
    with pytest.raises(AssertionError, match="not the exact one"):
        require_moments(tree, problem.answers)
    findings = distmc.verdict(tree).findings
    assert any(finding.level == "bad" and "may remember its start" in finding.what for finding in findings)


# The others -----------------------------------------------------------------------------------------------------------


def two_at_once() -> Problem:
    """Return a correlated Gaussian in the prior beside shares in the likelihood: compiling takes longest."""
    gaussian, shares = PROBLEMS["correlated"](), PROBLEMS["shares"]()
    return Problem(
        name=f"{gaussian} and {shares}",
        model=distmc.Model(
            parameters={**gaussian.model.parameters, **shares.model.parameters},
            log_likelihood=shares.model.log_likelihood,
            log_prior=gaussian.model.log_prior,
        ),
        data=shares.data,
        answers={**gaussian.answers, **shares.answers},
        source="Independent, each with its own.",
    )


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in TRIED])
def test_other_samplers_find_the_answers_or_say_that_they_have_not(sampler: str) -> None:
    problem = two_at_once()
    tree = sampled(problem, sampler)
    if distmc.verdict(tree).level == "good":
        require_moments(tree, problem.answers)


# The answers ----------------------------------------------------------------------------------------------------------


def test_eight_schools_are_those_of_posteriordb() -> None:
    # Means and their Monte Carlo errors; reference_posteriors/summary_statistics, eight_schools_noncentered.
    published = {"mean": (4.41051833695493, 0.0330374705950917), "spread": (3.60205952364059, 0.0318615135640706)}
    answers = hierarchies.eight_schools().answers
    for name, (mean, mcse) in published.items():
        assert abs(float(answers[name].mean) - mean) < 3.0 * mcse


def test_quadrature_has_converged() -> None:
    data = hidden_markov.two_states().data
    fine, coarse = (hidden_markov.solve(data, num_points) for num_points in (41, 31))
    for name, answer in fine.items():
        np.testing.assert_allclose(coarse[name].mean, answer.mean, rtol=1e-5)
        np.testing.assert_allclose(coarse[name].sd, answer.sd, rtol=1e-4)


def gamma_on_grid(high: float) -> Answer:
    """Moments of a gamma distribution of shape 3, in logarithms."""
    found = moments_on_grid(
        lambda grid: 3.0 * grid["log"] - np.exp(grid["log"]),
        {"log": (-9.0, high)},
        101,
        {"x": lambda grid: np.exp(grid["log"])},
    )
    return found["x"]


def test_quadrature_is_right_or_refuses() -> None:
    np.testing.assert_allclose(gamma_on_grid(4.0), [3.0, np.sqrt(3.0)], rtol=1e-6)
    with pytest.raises(ValueError, match="widen the range"):
        gamma_on_grid(2.0)


def test_smoother_agrees_with_linear_algebra() -> None:
    problem = series.local_level(12)
    steps, values = problem.data.rows["step"], problem.data.rows["value"]
    covariance = series.FIRST_SD**2 + series.STEP_SD**2 * np.minimum.outer(np.arange(12), np.arange(12))
    gain = covariance[:, steps] @ np.linalg.inv(
        covariance[np.ix_(steps, steps)] + series.NOISE_SD**2 * np.eye(steps.size)
    )
    np.testing.assert_allclose(problem.answers["level"].mean, gain @ values)
    variance = np.diag(covariance - gain @ covariance[steps])
    np.testing.assert_allclose(problem.answers["level"].sd, np.sqrt(variance))
