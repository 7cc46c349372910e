"""Linear ops: one description of every op that multiplies, its weights in one layout, its windows and biases."""
