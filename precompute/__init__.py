"""Tensors in, arrays out: what every head of a Vision Transformer does on a batch of images."""
