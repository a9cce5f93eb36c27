"""Checks for tests of your own: the same bits on any number of workers, moments within their Monte Carlo error."""
