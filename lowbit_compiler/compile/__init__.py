"""One compilation: the passes with what watches them, the executable with its weights, the remainder, and what to do when one fails."""
