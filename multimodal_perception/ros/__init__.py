"""ROS 2 layer: messages to frames, results to messages. It contains no algorithms."""
