"""What a transformer computes, in numpy."""
