"""The ROS 2 layer: messages to frames, results to messages. No mathematics lives here."""
