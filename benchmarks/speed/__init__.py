"""Speed and memory of the sensitivities, in forward passes of the same images."""
