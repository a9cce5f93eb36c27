"""The reference set: posteriors whose means and standard deviations are known, of the shapes that samplers meet."""
