"""Coordinates: poses, camera models and boxes. No ROS, no sensor state."""
