"""Measurements over time: tables, arrays and .ts files, on a regular grid."""
