"""Data sets, augmentation and loading: numpy arrays, every sample a function of seed, epoch and index."""
