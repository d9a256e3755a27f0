"""What embeddings of wells are worth, in the numbers of the field, beside what no training gives."""
