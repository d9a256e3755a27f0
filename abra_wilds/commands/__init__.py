"""One file for each job of `abra-wilds`."""
