"""Networks: backbone, neck, head, text encoder, and post-processing."""
