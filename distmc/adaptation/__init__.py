"""What the chains learn together in warm-up: step size, trajectory length and metric, and when each is tuned."""
