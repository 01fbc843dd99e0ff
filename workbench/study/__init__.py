"""Several runs together: comparisons, sweeps and designs, who runs the points, finished points."""
