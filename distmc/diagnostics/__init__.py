"""What the draws are worth: numbers from ArviZ, a verdict in words."""

from distmc.diagnostics.chains import ChainSign
from distmc.diagnostics.summary import ParameterSummary, Summary, summarise
from distmc.diagnostics.verdict import Finding, Verdict, verdict

__all__ = ["ChainSign", "Finding", "ParameterSummary", "Summary", "Verdict", "summarise", "verdict"]
