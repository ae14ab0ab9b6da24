"""A trained torch network to a smaller one before quantisation: prune, thin out 2:4, distil, fine-tune, new head."""
