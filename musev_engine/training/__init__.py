"""Code that makes the training clips and trains the embedded model."""
