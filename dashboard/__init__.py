"""What does the lab see? One page of linked views of a study. Reads the store; never imports torch."""
