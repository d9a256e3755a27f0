"""`abra-wilds fetch`: a data set from where it is published, checked and put in place whole."""
