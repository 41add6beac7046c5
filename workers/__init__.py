"""What turns a model and a folder of images into a study: finding, decoding, labels, the pipeline."""
