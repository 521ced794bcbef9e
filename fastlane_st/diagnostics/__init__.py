"""What a router chooses, and whether that is a collapse."""
