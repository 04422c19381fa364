"""The ROS rim: the only folder, with tools/, that imports ROS."""
