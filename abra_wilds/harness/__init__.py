"""Our methods inside an unchanged checkout of WILDS, found by its files and extended in memory alone."""
