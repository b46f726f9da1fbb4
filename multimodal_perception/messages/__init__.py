"""Conversion of ROS messages to readings and of results to ROS messages, without rclpy."""
