"""Offline training of depth models: PyTorch, never ROS, not installed on the robot."""
