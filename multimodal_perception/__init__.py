"""Perception from cameras, LiDAR, thermal images and ultrasonic ranges, with or without ROS 2."""

__version__ = "0.3.0"
