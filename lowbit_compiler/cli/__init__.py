"""The command ``lowbit``."""
