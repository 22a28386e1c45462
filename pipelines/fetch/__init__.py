"""Image fetching: the HTTP client with its limits, the decoder process, and the spool that a killed download goes on from."""
