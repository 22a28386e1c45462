"""Networks: backbone, neck, head, text encoder, and what turns their output into detections."""
