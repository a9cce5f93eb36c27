"""Many processes as one JAX program: their start, the mesh, the exact sum, and the log-density of rows they share."""
