"""What shows the node without a hospital: CT series written from arrays, and a small stand-in archive."""
