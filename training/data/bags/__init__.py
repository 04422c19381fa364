"""A robot's own recordings: ROS 2 bags, read without ROS."""
