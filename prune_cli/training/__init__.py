"""One loop for training, pruning-time training and fine-tuning."""
