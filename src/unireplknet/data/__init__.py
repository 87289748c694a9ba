"""Samples of any modality: where they lie, how they are split, and how they become batches of maps."""
