"""A leaf: a page on this computer alone, which shows run folders and lets both models answer side by side."""
