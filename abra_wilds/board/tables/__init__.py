"""The paper's tables from run folders."""
