"""The paper's figures from run folders and saved models."""
