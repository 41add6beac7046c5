"""The demo: pictures drawn from a seed, and the small ViT trained on them. Opening it imports nothing."""
