"""Statistics: paired effects over seeds and images, exact tests, power, resampling. NumPy and SciPy only."""
