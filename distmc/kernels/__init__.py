"""Transitions of all chains at once, one algorithm a file; they know nothing of data, devices or Ray."""
