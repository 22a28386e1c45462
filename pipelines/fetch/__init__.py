"""Image fetching: the HTTP client with its limits, the decoding process, and what a killed download keeps."""
