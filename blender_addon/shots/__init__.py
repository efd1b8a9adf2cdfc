"""Many clips as one batch, and the sheet that shows what became of them."""
