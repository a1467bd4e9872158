"""Training on event stores: one network, three kinds of neuron, weights that move between them."""
