"""Ready models for the demonstration, tests, benchmarks and documents; some have posteriors that are known exactly."""
