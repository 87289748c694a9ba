"""Where the files of each data set go."""
