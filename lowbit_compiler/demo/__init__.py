"""The ``lowbit demo``: a real language model, compiled, asked a question and measured."""
