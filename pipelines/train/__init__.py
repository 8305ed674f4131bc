"""Train: plan the order of all batches, then fine-tune the encoder on Ray Train and DeepSpeed."""
