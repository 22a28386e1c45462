"""Sources of image-text pairs: tables of URLs and captions, and WebDataset mirrors."""
