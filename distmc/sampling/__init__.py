"""The loop of a run, its state and random keys, and the worker that drives them in each process."""
