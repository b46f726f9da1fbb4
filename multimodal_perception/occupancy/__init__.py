"""Bird's-eye-view occupancy grids from LiDAR, ultrasonic sensors, cameras and detected boxes."""
