"""Whether what a take was made from has changed since."""
