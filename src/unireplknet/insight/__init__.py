"""Pictures that show what a network learned and how."""
