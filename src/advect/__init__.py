"""advect: flow-based generative models, from a table to samples, likelihoods and transport."""
