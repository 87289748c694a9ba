"""What is learned of the maps: each task is a folder."""
