"""Log-likelihoods whose gradient deserves care, to build models from: hidden Markov models first."""
