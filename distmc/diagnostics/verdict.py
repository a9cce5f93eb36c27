"""A summary in words: what is wrong, and what to try."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

from distmc.diagnostics.chains import ChainSign
from distmc.diagnostics.summary import Summary

Level: TypeAlias = Literal["good", "doubtful", "bad"]

RHAT_GOOD, RHAT_BAD = 1.01, 1.05
"""Below the first, chains agree; above the second, they do not. The first is advised by Vehtari et al. (2021)."""

FEWEST_ESS = 400
"""Effective draws, in bulk and in tails, from which on R-hat and error estimates can be trusted; same source."""

FEWEST_ESS_PER_CHAIN = 10
"""Effective draws of each chain below which a sum over chains that is too small as well is bad, not only doubtful.

Chains that have been around this rarely still remember where they started, and a region that is hard to enter, such as
the neck of a funnel, may have been seen by none of them. Error estimates and R-hat come from the chains themselves and
cannot tell.
"""

FEWEST_DRAWS = 8
"""Draws of each chain below which nothing can be told."""

LOW_ENERGY_BFMI = 0.3
"""Fraction of missing information of the median chain below which energies are explored too slowly (Stan)."""

MANY_NAMED = 5
"""So many chains are named one by one."""

_OPENING: dict[Level, str] = {
    "good": "Good: nothing speaks against these draws.",
    "doubtful": "Doubtful: look at what follows before you use these draws.",
    "bad": "Bad: do not use these draws as they are.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    level : {"doubtful", "bad"}
        How much it matters.
    what : str
        What was seen, with numbers and names.
    remedy : str
        What to try.
    """

    level: Level
    what: str
    remedy: str

    def __str__(self) -> str:
        """Return two lines."""
        return f"{self.what}\n  Try: {self.remedy}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to think of a run.

    Attributes
    ----------
    level : {"good", "doubtful", "bad"}
        The worst of the findings.
    findings : tuple of Finding
        The worst ones first.
    """

    level: Level
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """Return the verdict as text of several lines."""
        return "\n".join([_OPENING[self.level], *(f"- {finding}" for finding in self.findings)])


def verdict(summary: Summary) -> Verdict:
    """Judge a run by its summary.

    Parameters
    ----------
    summary : Summary
        From `summarise`.

    Returns
    -------
    Verdict
        Plain values that can be pickled; `str` makes text of it.
    """
    findings = sorted(_findings(summary), key=lambda finding: finding.level != "bad")
    return Verdict(level=findings[0].level if findings else "good", findings=tuple(findings))


def _findings(summary: Summary) -> Iterator[Finding]:
    if summary.num_draws < FEWEST_DRAWS:
        yield Finding(
            level="bad",
            what=f"There are {summary.num_draws} draws of each chain, too few to tell anything.",
            remedy=f"a larger `num_draws`, at least {FEWEST_DRAWS} and better some hundreds.",
        )
        return
    yield from _chain_findings(summary)
    yield from _rhat_findings(summary)
    yield from _ess_findings(summary)
    yield from _divergence_findings(summary)
    yield from _energy_findings(summary)


def _chain_findings(summary: Summary) -> Iterator[Finding]:
    remedies = {
        "nonfinite": "a prior or support that keeps the parameter away from overflow, or precision='float64'.",
        "stuck": "a longer warm-up or a higher `target_acceptance_rate`; if it stays, another start for these chains "
        "or a prior that rules out the region they sit in.",
        "low_density": "a longer warm-up, starts nearer to the bulk of the posterior, or a prior that rules this mode "
        "out. Do not simply drop the chains.",
        "apart": "a constraint that makes the parameters identifiable, for instance an order of the states of a "
        "mixture or hidden Markov model, or one common start for all chains.",
        "divergent": "another start for this chain; it may sit in a region of high curvature.",
    }
    for kind, remedy in remedies.items():
        signs = [sign for sign in summary.suspicious_chains if sign.sign == kind]
        if signs:
            level: Level = "doubtful" if kind == "divergent" else "bad"
            yield Finding(level=level, what=_name_chains(signs, summary.num_chains), remedy=remedy)


def _name_chains(signs: list[ChainSign], num_chains: int) -> str:
    text = "; ".join(map(str, signs[:MANY_NAMED]))
    more = signs[MANY_NAMED:]
    if more:
        text += f"; likewise chains {', '.join(str(sign.chain) for sign in more)} ({len(signs)} of {num_chains})"
    return f"{text[0].upper()}{text[1:]}."


def _rhat_findings(summary: Summary) -> Iterator[Finding]:
    worst = summary.worst_rhat
    if worst is None or worst.rhat <= RHAT_GOOD:
        return
    num_above = sum(not parameter.rhat <= RHAT_GOOD for parameter in summary.varying)
    extent = f" ({num_above:,} of {len(summary.varying):,} values above {RHAT_GOOD})"
    if math.isnan(worst.rhat):
        yield Finding(
            level="bad",
            what=f"R-hat is not a number for {worst.name}{extent}: some of its draws are not finite.",
            remedy="a look at these draws; see the chains named above.",
        )
    elif worst.rhat > RHAT_BAD:
        yield Finding(
            level="bad",
            what=f"R-hat {worst.rhat:.2f} for {worst.name}{extent}: chains disagree.",
            remedy="a longer warm-up and more draws; if R-hat does not fall, the posterior has several modes: order "
            "or fix what can be exchanged, or start all chains in one mode.",
        )
    else:
        yield Finding(
            level="doubtful",
            what=f"R-hat {worst.rhat:.3f} for {worst.name}{extent}: chains have not been compared for long enough.",
            remedy="more draws of each chain; R-hat of short chains is above 1 even where they agree.",
        )


def _ess_findings(summary: Summary) -> Iterator[Finding]:
    for kind, worst in (("bulk", summary.least_ess_bulk), ("tail", summary.least_ess_tail)):
        if worst is None:
            continue
        ess = worst.ess_bulk if kind == "bulk" else worst.ess_tail
        if not ess < FEWEST_ESS:
            continue
        factor = FEWEST_ESS / max(ess, 1.0)
        is_remembered = ess < FEWEST_ESS_PER_CHAIN * summary.num_chains
        per_chain = (
            f" Each of {summary.num_chains} chains has {ess / summary.num_chains:,.1f} and may remember its start."
        )
        yield Finding(
            level="bad" if factor >= 4 or is_remembered else "doubtful",
            what=f"The {kind} ESS is {ess:,.0f} for {worst.name}; {FEWEST_ESS} are needed for errors to be trusted."
            + per_chain * is_remembered,
            remedy=f"about {math.ceil(factor)} times as many draws or chains, or a parameterisation whose "
            "parameters depend less on each other.",
        )


def _divergence_findings(summary: Summary) -> Iterator[Finding]:
    if not summary.num_divergent:
        return
    total = summary.num_chains * summary.num_draws
    share = summary.num_divergent / total
    percent = f"{share:.2%}" if share >= 1e-4 else "less than 0.01%"
    number = summary.num_nonfinite
    cause = f"; {number:,} met a log-density or gradient that is not finite" if number else ""
    yield Finding(
        level="bad" if share > 0.01 else "doubtful",
        what=f"{summary.num_divergent:,} of {total:,} trajectories diverged ({percent}{cause}): the posterior "
        "may have a narrow region that the draws leave out.",
        remedy="a higher `target_acceptance_rate`, for instance 0.95; then a non-centred parameterisation of "
        "hierarchical parameters.",
    )


def _energy_findings(summary: Summary) -> Iterator[Finding]:
    known = sorted(fraction for fraction in summary.energy_bfmi if not math.isnan(fraction))
    if not known or known[len(known) // 2] >= LOW_ENERGY_BFMI:
        return
    yield Finding(
        level="doubtful",
        what=f"The energy changes little from draw to draw (E-BFMI {known[len(known) // 2]:.2f} of the median chain; "
        f"{LOW_ENERGY_BFMI} is low): tails, or the neck of a funnel, are explored too slowly or not at all.",
        remedy="a non-centred parameterisation of hierarchical parameters, or priors with lighter tails.",
    )
