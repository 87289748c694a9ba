"""Public data in the layouts that the recipes read."""
