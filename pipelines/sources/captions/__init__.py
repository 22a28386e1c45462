"""Sources of image-text pairs: tables of URLs and captions, WebDataset mirrors, and images of this machine."""
