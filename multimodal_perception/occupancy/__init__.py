"""Bird's-eye-view occupancy from ranges."""
