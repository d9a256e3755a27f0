"""The numbers of paper and WILDS, and how the values of a run are decided."""
