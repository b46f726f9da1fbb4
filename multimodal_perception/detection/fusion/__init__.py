"""Two-stage fusion detector of LiDAR, images and ultrasonic ranges."""
