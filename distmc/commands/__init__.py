"""Commands that `distmc.cli` gathers, and what they have in common."""
