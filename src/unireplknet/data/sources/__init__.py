"""Layouts of data sets on disk."""
