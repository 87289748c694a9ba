"""From a trained network to one that runs elsewhere: merge, verify, time."""
