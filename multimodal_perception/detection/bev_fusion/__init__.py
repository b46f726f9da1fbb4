"""Two-stage BEV fusion detector of any number of images, LiDAR sweeps and ultrasonic ranges."""
