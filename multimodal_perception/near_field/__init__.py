"""Learned occupancy of the near field from fisheye cameras and ultrasonic sensors."""
