"""Geometry: poses, transforms over time, camera models, and 2D and 3D bounding boxes. No ROS."""
