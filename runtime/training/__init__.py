"""The three products of a linear that trains, forward, dX and dW, in low precision: what they are, as data, and their plain-torch reference."""
