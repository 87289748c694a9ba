"""WebDataset shards: tar files of samples, with a manifest."""
