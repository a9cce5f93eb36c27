"""Control plane: who works where, what happens next, and what a failure was."""
