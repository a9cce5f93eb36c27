"""Parameters with priors and supports, the log-likelihood of rows, and the checks that a run begins with."""
