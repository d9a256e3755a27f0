"""What a model says of a screen that nobody has labelled: tables of sites and wells, by name."""
