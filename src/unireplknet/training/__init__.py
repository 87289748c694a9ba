"""Training: a recipe, the task it describes, and the run folder that comes of it."""
