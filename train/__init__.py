"""Training on event stores: one network, three kinds of neuron, and transfer between them."""
