"""What is learned of the maps: each task is a folder, and its ``task.py`` is what the rest of the package knows of it.

A ``task.py`` is imported whenever a recipe names the task, so that it imports what does the work when it is done.
"""
