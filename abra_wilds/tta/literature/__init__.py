"""Test-time adaptations of other papers, a file each."""
