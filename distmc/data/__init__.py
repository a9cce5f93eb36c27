"""Rows and constants, cut into a fixed number of logical blocks."""
