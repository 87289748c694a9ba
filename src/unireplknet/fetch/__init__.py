"""Data sets that package archives hold, turned into the layouts that the recipes read."""
