"""Training: lanes, their losses and updates, the teacher's part, and the loop over all of them."""
