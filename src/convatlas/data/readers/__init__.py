"""One reader a format: idx, CIFAR's python batches, npz, image folders and archives."""
