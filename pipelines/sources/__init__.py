"""Where data comes from, one small file a source."""
