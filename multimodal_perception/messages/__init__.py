"""ROS messages to readings, and results to messages, without rclpy."""
