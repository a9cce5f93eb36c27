"""Shares of categories, on a simplex."""

from distmc.zoo import categorical
from distmc.zoo.reference.problem import Problem


def dirichlet(num_rows: int = 40) -> Problem:
    """Return shares of four categories under a Dirichlet prior."""
    data = categorical.simulate(num_rows)
    return Problem(
        name="Dirichlet shares",
        model=categorical.build_model(),
        data=data,
        answers=categorical.solve(data),
        source="Conjugate: Gelman et al. (2013), Bayesian Data Analysis, third edition, section 3.4.",
    )
