"""All problems of the reference set by name."""

from collections.abc import Callable

from distmc.zoo.reference import (
    funnels,
    gaussians,
    hidden_markov,
    hierarchies,
    mixtures,
    regressions,
    series,
    shares,
)
from distmc.zoo.reference.problem import Problem

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ill-conditioned": gaussians.ill_conditioned,
    "thousand-dimensions": gaussians.thousand_dimensions,
    "correlated": gaussians.correlated,
    "heavy-tails": gaussians.heavy_tails,
    "funnel": funnels.non_centred,
    "mixture": mixtures.ordered,
    "shares": shares.dirichlet,
    "linear-regression": regressions.linear,
    "logistic-regression": regressions.logistic,
    "poisson-regression": regressions.poisson,
    "local-level": series.local_level,
    "autoregression": series.autoregression,
    "hierarchical": hierarchies.many_groups,
    "eight-schools": hierarchies.eight_schools,
    "hidden-markov": hidden_markov.two_states,
    "centred-funnel": funnels.centred,
}
"""By a name that is easy to type; each is made when it is asked for."""
