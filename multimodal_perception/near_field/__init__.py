"""Near-field occupancy network for fisheye cameras and ultrasonic sensors."""
