"""What crosses a border: Arrow schemas, the manifest, the training sample. Imports nothing else of this project."""
