"""Prompts: read (`prompts`), checked and split (`splits`), counted, written (`mine`), shipped (`bundled`)."""
