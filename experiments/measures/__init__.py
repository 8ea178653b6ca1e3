"""What is measured of a run: samples beside real data, and the health of its denoiser."""
